"""The cloud's AWS API: moto's server, what AWS refuses and moto takes, and the machines behind it."""
