"""Hosts as virtual machines: `make test-vm`. Not part of `make test`, as a boot on an emulated processor takes minutes."""

from __future__ import annotations

import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from localcloud.errors import LocalCloudError
from localcloud.machines import prepare
from tests.booted.conftest import Stack
from tests.host.support import left_out

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Only who names this folder gets its tests."""
    named = [Path(argument.partition("::")[0]).absolute() for argument in config.args]
    asked = any(path == HERE or HERE in path.parents for path in named)
    return None if asked or collection_path == HERE / "__init__.py" else True


@pytest.fixture(scope="session")
def virtual(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """A control node, a slave and an edge as virtual machines, booted once, their network checked by `up` itself."""
    base = tmp_path_factory.getbasetemp()
    try:
        prepare.check(base, kind="vm")
        prepare.install(kind="vm")
    except LocalCloudError as error:
        left_out(f"the virtual machines: {error}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        stack = Stack(tmp_path_factory.mktemp("cloud"), probe.getsockname()[1])
    try:
        stack.up("--machines", "vm", "--no-demo", "--set", "control.count=1", "--set", "slaves.count=1")
        yield stack
    finally:
        stack.down()
