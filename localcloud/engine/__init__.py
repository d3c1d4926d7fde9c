"""Pulumi's engine: its programs and work directory, a run of it with its events, and its namespace and language host."""
