"""Consul's agent and servers: configuration, tokens, names."""
