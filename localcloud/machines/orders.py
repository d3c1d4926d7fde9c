"""Orders for single booted hosts, as the command line gives them to the cloud's process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MachineError
from .programs import host_program

if TYPE_CHECKING:
    from .driver import MachineDriver


def answer(driver: MachineDriver, body: dict[str, Any]) -> dict[str, Any]:
    """One order for one host: {"order": stop|start|reboot|kill|cut|heal|ready|look|offer|denied, "host": …, "seconds": …}."""
    orders = {name: getattr(driver, name) for name in ("stop", "start", "reboot", "kill", "cut", "heal")}
    try:
        if body["order"] == "ready":
            driver.wait_ready(body["host"], float(body["seconds"]))
        elif body["order"] == "look":
            driver.reconcile()
        elif body["order"] == "offer":
            return {"port": driver.offer(body["host"], int(body["port"]), int(body["far"]))}
        elif body["order"] == "denied":
            return {"denied": driver.denied()}
        else:
            orders[body["order"]](body["host"])
    except MachineError as error:
        return {"failed": str(error)}
    return {}


def binaries() -> dict[str, Path]:
    """consul and consul-template for the hosts' image: from PATH, their maker, or built. LocalCloudError: neither worked."""
    return {name: host_program(name) for name in ("consul", "consul-template")}
