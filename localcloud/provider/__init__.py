"""A Pulumi provider for `aws` and `command` in Python: the real engine's calls, answered by a moto server and this machine.

`servicer.py` speaks the engine's protocol; `kind.py` has what it asks of each resource type, and `aws.py` how those of AWS
answer by tables; each other module holds one family of resource types.
"""
