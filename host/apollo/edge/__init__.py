"""What HAProxy serves."""
