"""The journal of the providers' calls: their log, what they made, those under way, and the faults that tests inject."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .kind import CloudError
from .values import Props


@dataclass
class Made:
    """One live resource that the provider created: what is needed to delete it again."""

    urn: str
    type: str
    id: str
    props: Props = field(repr=False)

    def public(self) -> dict[str, str]:
        return {"urn": self.urn, "type": self.type, "id": self.id}


@dataclass
class Fault:
    """An injected fault, for tests. It strikes at the nth matching call and is then spent.

    operation: create, update, delete or read. type, name: which resources, empty for all. delay: seconds, ended
    sooner by an operation that is cancelled.
    message: the error, none where empty. when: before or after the real call.
    """

    operation: str
    type: str = ""
    name: str = ""
    nth: int = 1
    message: str = ""
    delay: float = 0.0
    when: str = "before"
    seen: int = 0


class Journal:
    """Shared by the aws and the command provider of one cloud. log: a file of one JSON object a line, one for each call.

    cancelled: set while an operation that the engine cancelled comes to its end.
    """

    def __init__(self, log: Path, cancelled: threading.Event) -> None:
        self.ready = threading.Event()
        self.cancelled = cancelled
        self._state = threading.Lock()
        self._made: dict[tuple[str, str], Made] = {}
        self._faults: list[Fault] = []
        self._in_flight = 0
        self._log = log.open("a", buffering=1)

    @contextmanager
    def call(self, operation: str, type: str, name: str, urn: str, **more: Any) -> Generator[dict[str, Any]]:
        """Around one call. The yielded record goes into the log at its end; the caller may add to it."""
        record = {"operation": operation, "type": type, "name": name, "urn": urn, "started": time.time(), **more}
        with self._state:
            self._in_flight += 1
            fault = self._strike(operation, type, name)
        try:
            if fault and fault.when == "before":
                self._suffer(fault)
            yield record
            if fault and fault.when == "after":
                self._suffer(fault)
        except BaseException as error:
            record["error"] = str(error) or error.__class__.__name__
            raise
        finally:
            record["ended"] = time.time()
            with self._state:
                self._in_flight -= 1
                self._log.write(json.dumps(record) + "\n")

    def _strike(self, operation: str, type: str, name: str) -> Fault | None:
        for fault in self._faults:
            if operation == fault.operation and fault.type in ("", type) and fault.name in ("", name):
                fault.seen += 1
                if fault.seen == fault.nth:
                    self._faults.remove(fault)
                    return fault
        return None

    def _suffer(self, fault: Fault) -> None:
        self.cancelled.wait(fault.delay)
        if fault.message:
            raise CloudError(fault.message)

    def made(self, made: Made) -> None:
        with self._state:
            self._made[(made.type, made.id)] = made

    def changed(self, type: str, id: str, props: Props) -> None:
        with self._state:
            if (type, id) in self._made:
                self._made[(type, id)].props = props

    def gone(self, type: str, id: str) -> None:
        with self._state:
            self._made.pop((type, id), None)

    def inject(self, fault: Fault) -> None:
        with self._state:
            self._faults.append(fault)

    def orphans(self, known: set[tuple[str, str]]) -> list[Made]:
        """What we created and the state does not know, newest first, so that nothing is deleted under another's feet."""
        with self._state:
            return [made for key, made in reversed(self._made.items()) if key not in known]

    def status(self) -> dict[str, Any]:
        """The number of calls under way, what was made, and the names of the faults that have not struck."""
        with self._state:
            made = [one.public() for one in self._made.values()]
            return {"inFlight": self._in_flight, "made": made, "faults": [fault.name for fault in self._faults]}
