"""What is Apollo's own in the embedded cloud: its hosts by name, role and slot, their first boot, the demo and the check."""
