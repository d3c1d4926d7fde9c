"""The local stack without machines, for the day-two commands under the real engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.localcloud.test_program import Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    found = Stack(tmp_path_factory.mktemp("ops") / "run")
    found.up()
    yield found
    status, _, err = found.run("down")
    assert status == 0, err
