"""Pulumi's engine: its work directory, a run of it with its events, and the namespace and language host that it runs with."""
