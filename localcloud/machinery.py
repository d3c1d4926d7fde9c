"""Booted machines behind the cloud process: what its provider calls, and what the command line may ask of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .machines.driver import MachineDriver
from .machines.errors import MachineError
from .paths import cache_dir
from .programs import host_program
from .provider.kind import CloudError


class Machinery:
    """The driver as the provider knows it (`provider.desk.Machines`), with orders for single hosts."""

    def __init__(self, endpoint: str, folder: Path, region: str, edge_port: int | None) -> None:
        self.driver = MachineDriver(endpoint, folder, cache_dir(), binaries, edge_port, region)
        self._turn = threading.Condition()
        self._looking, self._begun, self._done = False, 0, 0
        self._failure: str | None = None
        self.ssh_prefix = tuple(self.driver.admin.command([]))
        self._orders: dict[str, Callable[[str], None]] = {
            "stop": self.driver.stop,
            "start": self.driver.start,
            "reboot": self.driver.reboot,
            "kill": self.driver.kill,
            "cut": self.driver.cut,
            "heal": self.driver.heal,
        }

    def reconcile(self) -> None:
        """One look at the cloud serves all who asked before it began: a hundred resources are not worth a hundred looks."""
        with self._turn:
            # A look that has begun may have missed the caller's change; the next one cannot.
            mine = self._begun + 1
            self._turn.wait_for(lambda: not self._looking or self._done >= mine)
            if self._done < mine:
                self._begun, self._looking = self._begun + 1, True
                looker = True
            else:
                looker = False
        if looker:
            failure: str | None = "the look at the cloud ended early"
            try:
                self.driver.reconcile()
                failure = None
            except MachineError as error:
                failure = str(error)
            finally:
                with self._turn:
                    self._looking, self._done, self._failure = False, self._begun, failure
                    self._turn.notify_all()
        if self._failure is not None:
            raise CloudError(self._failure)

    def close(self) -> None:
        self.driver.close()

    def ended(self, address: str) -> str:
        return self.driver.ended(address)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """One order for one host: {"order": stop|start|reboot|kill|cut|heal|ready|look|denied, "host": …, "seconds": …}."""
        try:
            if body["order"] == "ready":
                self.driver.wait_ready(body["host"], float(body["seconds"]))
            elif body["order"] == "look":
                self.driver.reconcile()
            elif body["order"] == "denied":
                return {"denied": self.driver.denied()}
            else:
                self._orders[body["order"]](body["host"])
        except MachineError as error:
            return {"failed": str(error)}
        return {}


def binaries() -> dict[str, Path]:
    """consul and consul-template for the hosts' image: from PATH, their maker, or built. LocalCloudError: neither worked."""
    return {name: host_program(name) for name in ("consul", "consul-template")}
