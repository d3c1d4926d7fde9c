"""Settings for every test: nothing depends on how fast the machine is, on chance, or on what ran before."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

os.environ["PULUMI_ERROR_OUTPUT_STRING"] = "true"
# moto reads this when it is imported. Its own list has hundreds of images, which each cloud of a test would load.
os.environ["MOTO_AMIS_PATH"] = str(Path(__file__).parent.parent / "localcloud" / "images.json")

settings.register_profile(
    "steady", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
settings.load_profile("steady")

# Most files of tests/booted share a stack. Two workers have one each, as all of them on one took longer than all other tests.
_ONE, _OTHER = "one stack", "the other stack"
_BOOTED = "tests/booted/test_"
_SHARED = {
    **dict.fromkeys(("commands", "edge", "firewall", "lifecycle", "metrics", "names", "network", "rotation"), _ONE),
    **dict.fromkeys(("living", "mesos"), _OTHER),
}
_MACHINES = ("tests/localcloud/machines/test_machines.py", "tests/localcloud/machines/test_serve.py")
# What takes longest, the longest first, so that no worker is left alone with it at the end; then all the others. Engines come
# after the shared stacks, which are gone once their worker begins something of another folder.
_LONGEST = (
    *(_OTHER, _ONE),
    *("tests/ops/test_day_two.py", "tests/localcloud/test_program.py", "tests/localcloud/test_terraform.py"),
    *(f"{_BOOTED}{lab}.py" for lab in ("wireguard", "operator", "killed", "weave", "first_boot", "existing_vpc", "terraform")),
    *("tests/localcloud/test_shortcuts.py", "tests/localcloud/test_engine.py", "tests/localcloud/test_existing_vpc.py"),
    *_MACHINES,
)


# A third worker gives way to the others, and uses what is left while hosts are waited for: it takes the short files, the last
# first, then the shorter engines. Engines beside two booted stacks made both too slow, and a third stack would.
_LAST, _NICE = "gw2", 10


def _scope(nodeid: str) -> str:
    """What one worker takes as a whole: a file, or the files that share a stack."""
    path = nodeid.partition("::")[0]
    return _SHARED.get(path.removeprefix(_BOOTED).removesuffix(".py"), path)


class _ByScope(LoadScopeScheduling):
    """xdist's own groups rely on a field of test items that pytest 9 no longer has, and then pass unnoticed."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node.gateway.id == _LAST:
            boots = (_ONE, _OTHER, _BOOTED, *_MACHINES)
            left = (scope for scope in reversed(self.workqueue) if not scope.startswith(boots))
            own = min(left, key=_LONGEST.__contains__, default=None)
            if own is None:
                node.shutdown()
                return
            self.workqueue.move_to_end(own, last=False)
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        crashed = super().remove_node(node)
        # xdist gives another worker the rest of the group, and in it again the test that ended this one.
        for group in self.workqueue.values():
            if crashed in group:
                group[crashed] = True
        return crashed


def pytest_xdist_make_scheduler(config: Any, log: Any) -> LoadScopeScheduling:
    return _ByScope(config, log)


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", {}).get("workerid")
    if worker == _LAST:
        os.nice(_NICE)
    if worker is None:
        threading.Thread(target=_name_the_long, args=(config,), daemon=True).start()


# What runs now, and since when. A test that takes _LONG seconds is named, again and again: a run that never ends ends with it.
_RUNNING: dict[str, float] = {}
_LONG = 300


def pytest_runtest_logstart(nodeid: str) -> None:
    _RUNNING[nodeid] = time.monotonic()


def pytest_runtest_logfinish(nodeid: str) -> None:
    _RUNNING.pop(nodeid, None)


def _name_the_long(config: pytest.Config) -> None:
    while True:
        time.sleep(_LONG)
        now = time.monotonic()
        for nodeid, since in list(_RUNNING.items()):
            if now - since >= _LONG:
                config.get_terminal_writer().line(f"\nstill running after {now - since:.0f} s: {nodeid}")


# For each worker the seconds of what it ran, by file or stack, and when it ended.
_TOOK: dict[str, dict[str, float]] = {}
_ENDED: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    worker = getattr(report, "worker_id", "")
    if worker:
        took = _TOOK.setdefault(worker, {})
        took[_scope(report.nodeid)] = took.get(_scope(report.nodeid), 0) + report.duration
        _ENDED[worker] = report.stop


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Who worked on what, longest first: what to order or to split for a shorter run."""
    for worker, took in sorted(_TOOK.items()):
        early = max(_ENDED.values()) - _ENDED[worker]
        longest = ", ".join(f"{scope} {took[scope]:.0f}" for scope in sorted(took, key=took.__getitem__, reverse=True)[:8])
        terminalreporter.write_line(f"{worker}: {sum(took.values()):.0f} s, ended {early:.0f} s before the last: {longest}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reversed", action="store_true", help="the files in reversed order, which must not matter")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    files = list(dict.fromkeys(item.nodeid.partition("::")[0] for item in items))
    scopes = {path: _scope(path) for path in files}
    files.sort(key=lambda path: _LONGEST.index(scopes[path]) if scopes[path] in _LONGEST else len(_LONGEST))
    if config.getoption("reversed"):
        files.reverse()
    place = {path: number for number, path in enumerate(files)}
    items.sort(key=lambda item: place[item.nodeid.partition("::")[0]])
