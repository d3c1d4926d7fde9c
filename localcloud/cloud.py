"""The cloud process as the command line sees it: start, find, ask, stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .apollo.hosts import HostRow
from .errors import LocalCloudError
from .machines.prepare import Kind
from .paths import REPOSITORY
from .processes import alive, end, start_ticks, wait_until

if TYPE_CHECKING:
    from .api.client import Aws

# Of 127.0.0.1, where the edge's port 80 is offered unless another is asked for.
EDGE_PORT = 8080
# The same for Prometheus, and where it listens on its own machine.
PROMETHEUS_PORT = 9090
_START_SECONDS = 90.0
# More than a host may take to be ready, also where it is emulated.
_ANSWER_SECONDS = 7500.0


@dataclass(frozen=True)
class Cloud:
    """A cloud process that once wrote cloud.json. started: seconds since the epoch."""

    folder: Path
    pid: int
    ticks: int
    started: float
    endpoint: str
    region: str
    # Its access key: id and secret.
    keys: dict[str, str] = field(repr=False)
    # Of 127.0.0.1, leading to the edge; None where no machines are booted.
    edge_port: int | None = None
    # What makes its machines.
    kind: Kind = "container"

    @property
    def log(self) -> Path:
        return self.folder / "cloud.log"

    def alive(self) -> bool:
        return alive(self.pid, self.ticks)

    def ask(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A question (without body) or an order to the process. LocalCloudError: it does not answer, or refuses."""
        from .api.control import ask

        try:
            answer = ask(self.folder, name, body, _ANSWER_SECONDS)
        except (OSError, ValueError) as error:
            raise LocalCloudError(f"the cloud (process {self.pid}) does not answer: {error}; see {self.log}") from None
        if "error" in answer:
            raise LocalCloudError(f"the cloud failed at {name!r}: {answer['error']}; see {self.log}")
        return answer

    def order(self, order: str, host: str, **more: Any) -> dict[str, Any]:
        """What the machines answer to an order for a host. LocalCloudError where it cannot be carried out, with their words."""
        answer = self.ask("machine", {"order": order, "host": host, **more})
        if "failed" in answer:
            raise LocalCloudError(answer["failed"])
        return answer

    def credentials(self) -> dict[str, str]:
        """What AWS's clients find in their environment to call this cloud."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.keys["id"],
            "AWS_SECRET_ACCESS_KEY": self.keys["secret"],
        }

    def api(self, region: str = "") -> Aws:
        """Clients of AWS's own library, signed with the cloud's key. region: another than the cloud's."""
        from .api.client import Aws, Keys

        return Aws(self.endpoint, region or self.region, Keys(**self.keys))

    def hosts(self) -> list[HostRow]:
        """The cloud's hosts as its API has them now."""
        return [HostRow(**row) for row in self.ask("hosts")["hosts"]]

    def wait_idle(self, seconds: float = 120.0) -> None:
        """Waits for calls that a killed run left under way. LocalCloudError where they do not end."""
        if not wait_until(lambda: not self.ask("status")["inFlight"], seconds, 0.1):
            raise LocalCloudError(f"a call of an earlier run has been under way for {seconds:.0f} s; see {self.log}")

    def stop(self) -> None:
        """Ends the process and waits until it is gone."""
        if self.alive():
            # Machines shut down in order first.
            end(self.pid, self.ticks, 10.0 if self.edge_port is None else 60.0)


class OtherVersion(LocalCloudError):
    """A cloud runs that another version of this program started: how to speak to it is not known, how to end it is."""

    def __init__(self, folder: Path, pid: int, ticks: int) -> None:
        super().__init__(
            f"the cloud in {folder} (process {pid}) was started by another version of this program; "
            "run `down` with that version, or give the cloud up with `./apollo down --force`"
        )
        self.pid, self.ticks = pid, ticks


def find(folder: Path) -> Cloud | None:
    """The cloud whose process started in the folder, alive or not; None where there never was one (or it was stopped).

    OtherVersion: it runs, and cloud.json is not as this version writes it.
    """
    about: dict[str, Any] = {}
    try:
        about = json.loads((folder / "cloud.json").read_text())
        return Cloud(folder=folder, **about)
    except (FileNotFoundError, ValueError, TypeError):
        if {"pid", "ticks"} <= set(about) and alive(about["pid"], about["ticks"]):
            raise OtherVersion(folder, about["pid"], about["ticks"]) from None
        return None


def start(
    folder: Path,
    region: str,
    *,
    port: int = 0,
    ephemeral: bool = False,
    edge_port: int | None = None,
    kind: Kind = "container",
    meanwhile: Callable[[], None] = lambda: None,
) -> Cloud:
    """Starts a cloud and waits until it serves.

    port: of the AWS endpoint, 0 for any free one. ephemeral: it ends with this process, and removes the folder then.
    edge_port: boots the instances, and offers the edge there (0: at any free port); None boots none.
    kind: what makes the machines. meanwhile: what the caller does while the cloud loads; where it raises, the cloud ends.
    LocalCloudError: the port is taken, or the process did not come up; ends with its own last words.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "cloud.json").unlink(missing_ok=True)
    argv = [sys.executable, "-m", "localcloud.daemon", "--folder", str(folder), "--region", region, "--port", str(port)]
    # Our own packages only: a PYTHONPATH of the caller's might hold others. The cloud holds no real credentials either.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("AWS_")}
    edge = [] if edge_port is None else ["--edge-port", str(edge_port), "--machines", kind]
    with (folder / "cloud.log").open("ab") as log:
        process = subprocess.Popen(
            [*argv, *(["--ephemeral"] if ephemeral else []), *edge],
            cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + _START_SECONDS
    try:
        meanwhile()
    except BaseException:
        process.kill()
        process.wait()
        raise
    while not (cloud := find(folder)):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            words = (folder / "cloud.log").read_text(errors="replace").strip().splitlines()
            raise LocalCloudError("the embedded cloud did not start: " + ("\n  ".join(words[-5:]) or "it said nothing"))
        time.sleep(0.02)
    return cloud


def sweep(run_dir: Path) -> None:
    """Removes what previews left that were killed together with their cloud. Their folders carry the preview's pid."""
    import shutil

    for folder in run_dir.glob("preview-*"):
        pid = int(folder.name.split("-")[1])
        cloud = find(folder)
        if start_ticks(pid) is None:
            if cloud:
                cloud.stop()
            shutil.rmtree(folder, ignore_errors=True)
