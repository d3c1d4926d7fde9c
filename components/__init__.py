"""Pulumi component resources. Each creates what the plan has fixed; none decides an address, a count or a name."""
