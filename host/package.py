"""The files of the hosts' program, by their place on a host: below /usr/local/lib/apollo, whose __main__.py is the entry point.

Beside host/apollo/ it has what the plan and hosts must agree on: one copy of every formula and every port.
"""

from __future__ import annotations

import functools
from pathlib import Path

LIBRARY = "/usr/local/lib/apollo"
_ROOT = Path(__file__).resolve().parents[1]
_ENTRY = "host/apollo/__main__.py"
_SHARED = ("host/__init__.py", "plan/__init__.py", "plan/addresses.py", "plan/ports.py")
# What fetches the rest, and so travels in user-data. __init__.py of a package is not needed for that.
BOOT = ("__main__.py", "host/apollo/local.py", "host/apollo/parameters.py", "plan/ports.py")


@functools.cache
def sources() -> dict[str, Path]:
    """Path below LIBRARY → the file here, by path. Run as a program, a folder or archive of them is `apollo`."""
    paths = [*(path.relative_to(_ROOT).as_posix() for path in (_ROOT / "host/apollo").rglob("*.py")), *_SHARED]
    return {"__main__.py" if path == _ENTRY else path: _ROOT / path for path in sorted(paths)}
