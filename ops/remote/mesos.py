"""Runs on a control node: `mesos.py down ADDRESS SECONDS` or `mesos.py up ADDRESS`, the host's own command for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONTROL = Path("/usr/local/lib/apollo/mesos_control.py")


def main(*arguments: str) -> int:
    if not CONTROL.exists():
        return 0
    done = subprocess.run([str(CONTROL), *arguments], capture_output=True, text=True, check=False)
    print(done.stdout.strip() or done.stderr.strip())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
