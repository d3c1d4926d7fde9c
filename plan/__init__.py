"""What a stack will be, as plain values: settings, addresses and hosts. Nothing here knows Pulumi or AWS calls."""
