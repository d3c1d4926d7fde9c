"""The measurements run, and their page keeps what was not measured again."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.__main__ import PAGE, written
from localcloud.paths import REPOSITORY


def test_the_bytes_of_user_data_are_measured_and_hold() -> None:
    argv = [sys.executable, "-m", "bench", "--only", "bytes", "--json"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["bytes"]
    assert [row["what"] for row in rows] == [f"user-data of {role}" for role in ("slave", "control", "edge")]
    assert [row["holds"] for row in rows] == ["yes"] * 3


def test_a_part_that_is_measured_again_takes_its_own_place_on_the_page_alone() -> None:
    page = written("# By hand\n", {"one": [{"what": "a", "ratio": 1}], "two": [{"what": "b", "ratio": 2}]})
    again = written(page, {"one": [{"what": "a", "ratio": 3}]})
    assert again.startswith("# By hand\n") and "| a | 3 |" in again and "| a | 1 |" not in again and "| b | 2 |" in again
    assert written(again, {}) == again
    assert written(PAGE.read_text(), {}) == PAGE.read_text()
