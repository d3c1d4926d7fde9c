"""Pulumi component resources. Each spends what the plan has fixed; none decides an address, a count or a name."""
