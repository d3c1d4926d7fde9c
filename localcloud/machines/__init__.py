"""Makes the EC2 instances of the embedded cloud real: hosts that boot, on a network that routes and filters like a VPC."""
