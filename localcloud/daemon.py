"""The cloud itself, one process.

`python -m localcloud.daemon --folder DIR` writes DIR/cloud.json once it serves, and DIR/calls.jsonl as it goes. The API takes
calls that are signed with the key in cloud.json; the engine, the command line and the tests come in by sockets in DIR, which
only their owner opens.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import get_args

from .machines.errors import MachineError
from .machines.prepare import Kind
from .processes import die_with_parent

_LOOK_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m localcloud.daemon")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--region", required=True)
    parser.add_argument("--edge-port", type=int, help="boot the hosts, and offer the edge's port 80 here on 127.0.0.1")
    parser.add_argument("--machines", choices=get_args(Kind), default="container", help="what makes the hosts")
    parser.add_argument("--ephemeral", action="store_true", help="end with the parent, and remove the folder then")
    args = parser.parse_args()
    if args.ephemeral:
        die_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # What is loaded stays, and little of it is garbage. Looking for that again and again would take as long as loading.
    gc.disable()
    from .service import Daemon

    try:
        daemon = Daemon(args.folder, args.port, args.region, args.edge_port, args.machines)
    except MachineError as error:
        print(error, file=sys.stderr)
        os._exit(3)
    except (OSError, SystemExit):
        print(f"port {args.port} is in use by another program; name a free one with --port, or leave it out", file=sys.stderr)
        sys.exit(3)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stopped.set())
    daemon.start()
    gc.freeze()  # no later look goes through it either
    gc.enable()
    # No one can find a cloud whose folder was removed, so it ends by itself.
    while not daemon.stopped.wait(_LOOK_SECONDS):
        if not (args.folder / "cloud.json").exists():
            break
    daemon.close()
    (args.folder / "cloud.json").unlink(missing_ok=True)
    if args.ephemeral:
        # The engine may be writing its last words: a folder that fills up again is removed again.
        for _ in range(20):
            shutil.rmtree(args.folder, ignore_errors=True)
            if not args.folder.exists():
                break
            time.sleep(0.1)
    # Threads in the middle of a call would hold an ordinary exit up.
    os._exit(0)


if __name__ == "__main__":
    main()
