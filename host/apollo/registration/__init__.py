"""Services of containers, in Consul."""
