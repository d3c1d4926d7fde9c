"""A Pulumi provider for `aws` and `command` in Python: the real engine's calls, answered by a moto server and this machine.

`servicer.py` speaks the engine's protocol; `schema.py` takes types and property names from the installed SDKs; `diff.py`
says which change replaces; each other module holds one family of resource types.
"""
