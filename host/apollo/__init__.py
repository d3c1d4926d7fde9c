"""The program of a host: Python and what Debian 12 packages, with plan/addresses.py and plan/ports.py of this repository."""
