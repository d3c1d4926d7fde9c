"""Another program on this terminal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType


def call(argv: Sequence[str], env: dict[str, str], cwd: Path, *, own_group: bool) -> int:
    """Runs it; gives its exit status. What Ctrl-C means is its own matter.

    own_group: it asks nothing, so the terminal's signals come to us alone, and we pass each on once.
    """
    process = subprocess.Popen(list(argv), env=env, cwd=cwd, process_group=0 if own_group else None)

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        if own_group or number != signal.SIGINT:
            process.send_signal(number)

    before = signal.signal(signal.SIGINT, pass_on), signal.signal(signal.SIGTERM, pass_on)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
