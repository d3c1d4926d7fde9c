from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import CommandLine, World, start_world


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """One cloud for all provider tests of a worker; each test makes what it needs and clashes with no other."""
    folder = Path(tempfile.mkdtemp(prefix="apollo-world-"))
    found = start_world(folder)
    yield found
    found.cloud.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[CommandLine]:
    """A command line with a run directory of its own."""
    found = CommandLine(tmp_path / "run")
    yield found
    found.close()
