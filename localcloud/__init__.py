"""The embedded cloud: the same program, the real Pulumi engine and an AWS API on one machine, no account needed.

The program itself never imports this package.
"""
