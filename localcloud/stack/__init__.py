"""One stack on this machine: its program's files, its state, and what of it runs."""
