"""What came of a run of the engine, for a person or as JSON."""

from __future__ import annotations

from localcloud import show
from localcloud.cli import INTERRUPTED
from localcloud.operations import Outcome


def report(outcome: Outcome, as_json: bool) -> int:
    """Shows it; gives the exit status."""
    if as_json:
        show.document(outcome.public())
    for error in outcome.errors:
        show.problem(error)
    if not as_json:
        _describe(outcome)
    if outcome.result == "interrupted":
        return INTERRUPTED
    return 0 if outcome.result == "succeeded" else 1


def _describe(outcome: Outcome) -> None:
    if outcome.operation == "preview" and outcome.result == "succeeded":
        ops = [op for op in ("create", "update", "replace", "delete") if outcome.changes.get(op)]
        rows = [(type, *(str(by.get(op, "")) for op in ops)) for type, by in sorted(outcome.types.items())]
        if rows:
            show.table(("type", *(f"to {op}" for op in ops)), rows)
            print()
    elif outcome.operation == "up" and outcome.result == "succeeded":
        show.table(("output", "value"), [(name, show.text(value)) for name, value in sorted(outcome.outputs.items())])
        print()
    if outcome.hosts and outcome.result == "succeeded":
        show.hosts(outcome.hosts)
        print()
    for name in outcome.urls.values():
        print(f"  curl -H 'Host: {name}' http://127.0.0.1:{outcome.edge_port}/")
    if outcome.metrics_port:
        print(f"  Prometheus: http://127.0.0.1:{outcome.metrics_port}/alerts")
    if outcome.urls or outcome.metrics_port:
        print()
    done = show.counts(outcome.changes, future=outcome.operation == "preview")
    verdict = {"succeeded": "", "failed": "failed: ", "interrupted": "stopped: "}[outcome.result]
    print(f"{outcome.operation} of stack {outcome.stack}: {verdict}{done} in {outcome.seconds:.1f} s")
