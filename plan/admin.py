"""How hosts and day-two commands know administrators. Without any library, as `python -m ops drain` needs none."""

from __future__ import annotations

# The account on every host.
ADMIN_USER = "admin"
# The variable in which `python -m ops` finds their private key, so that it is in no list of processes.
ADMIN_KEY = "APOLLO_ADMIN_KEY"
