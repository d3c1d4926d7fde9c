"""Settings for every test: nothing depends on how fast the machine is or on chance."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

os.environ["PULUMI_ERROR_OUTPUT_STRING"] = "true"

settings.register_profile(
    "steady", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
settings.load_profile("steady")

# Files that boot hosts, the two halves of which two workers run side by side: one stack that most of them share, and labs of
# their own. A third at the same time would starve them all.
_LABS = "labs"
_TOGETHER = {
    "tests/booted/test_first_boot.py": _LABS,
    "tests/booted/test_killed.py": _LABS,
    "tests/booted/test_weave.py": _LABS,
    "tests/booted/test_wireguard.py": _LABS,
    "tests/localcloud/machines/test_machines.py": _LABS,
    "tests/localcloud/machines/test_serve.py": _LABS,
    "tests/booted/": "stack",
}


class _ByFile(LoadScopeScheduling):
    """Whole files to a worker, and files that share a lab to the same one. (xdist's own groups rely on a field of test items
    that pytest 9 no longer has, and then pass unnoticed.)"""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((together for prefix, together in _TOGETHER.items() if path.startswith(prefix)), path)


def pytest_xdist_make_scheduler(config: Any, log: Any) -> LoadScopeScheduling:
    return _ByFile(config, log)
