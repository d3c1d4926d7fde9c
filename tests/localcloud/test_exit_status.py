"""How each verb of the embedded cloud ends, for each way that it can end: 0 done, 1 failed, 2 wrong usage, 130 stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from localcloud import operations
from localcloud.apollo import check, demo
from localcloud.cli import EXAMPLES, INTERRUPTED, ORDERS, VERBS, logs, main, orders, parser
from localcloud.cli import check as check_verb
from localcloud.cli import exec as exec_verb
from localcloud.cli import open as open_verb
from localcloud.cloud import Cloud
from localcloud.errors import LocalCloudError
from localcloud.operations import Outcome
from localcloud.processes import start_ticks
from localcloud.stack import running
from tests.host.support import raising

ENGINE = ("up", "preview", "refresh", "down")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("result", "status"), [("succeeded", 0), ("failed", 1), ("interrupted", INTERRUPTED)])
@pytest.mark.parametrize("verb", ENGINE)
def test_a_run_of_the_engine_ends_as_its_outcome(
    verb: str, result: str, status: int, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = ["no such zone"] if result == "failed" else []
    monkeypatch.setattr(operations, verb, lambda *_, **__: Outcome(verb, "local", result, errors=errors))
    assert main([verb, *(["--json"] if as_json else [])]) == status
    out, err = capsys.readouterr()
    assert ("no such zone" in err) is bool(errors)
    if as_json:
        assert json.loads(out)["result"] == result
    else:
        word = {"succeeded": "", "failed": "failed: ", "interrupted": "stopped: "}[result]
        assert out.splitlines()[-1].startswith(f"{verb} of stack local: {word}")


# Where a verb's work begins, and what else it is given.
BEGINS: dict[str, tuple[Any, str, list[str]]] = {
    **{verb: (operations, verb, []) for verb in ENGINE},
    "status": (running, "status", []),
    "outputs": (running, "stack_outputs", []),
    "check": (check_verb, "booted_cloud", []),
    "exec": (exec_verb, "booted_cloud", ["slave-1", "true"]),
    "shell": (exec_verb, "booted_cloud", ["slave-1"]),
    "logs": (logs, "booted_cloud", ["slave-1"]),
    "open": (open_verb, "booted_cloud", ["consul"]),
    "pulumi": (operations, "alone", ["preview"]),
    "ops": (operations, "alone", ["doctor"]),
    "serve": (operations, "alone", []),
    **{order: (orders, "cloud_of", ["slave-1"]) for order in ORDERS},
}


def test_every_verb_but_the_shells_own_is_in_the_table() -> None:
    assert BEGINS.keys() == {*VERBS, *ORDERS} - {"completion"}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(LocalCloudError("no cloud runs"), 1), (LocalCloudError("no such stack", 2), 2), (KeyboardInterrupt(), INTERRUPTED)],
    ids=["failed", "wrong usage", "Ctrl-C"],
)
@pytest.mark.parametrize("verb", BEGINS)
def test_a_verb_that_cannot_go_on_ends_with_one_message(
    verb: str, error: BaseException, status: int, as_json: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    module, function, arguments = BEGINS[verb]
    monkeypatch.setattr(module, function, raising(error))
    assert main([verb, *(["--json"] if as_json else []), *arguments]) == status
    out, err = capsys.readouterr()
    assert (str(error) or "stopped") in err
    if as_json and isinstance(error, LocalCloudError):
        told = json.loads(out)
        assert (told["operation"], told["result"], told["errors"]) == (verb, "failed", [str(error)])


@pytest.mark.parametrize("verb", BEGINS)
def test_each_verb_has_wrong_usage_and_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, status in (([verb, "--nonsense"], 2), ([verb, "--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == status
    shown = " ".join(capsys.readouterr().out.split())
    assert f"usage: ./apollo {verb}" in shown
    assert f"Example: ./apollo {verb} {EXAMPLES[verb]}" in shown
    words = [verb, *EXAMPLES[verb].split()]
    parser(words).parse_args(words)


@pytest.mark.parametrize("argv", [[], ["roll", "--help"]])
def test_the_help_of_day_two_needs_no_cloud(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APOLLO_RUN_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["ops", *argv])
    assert ended.value.code == 0
    assert f"python -m ops {' '.join(argv[:1])}" in capsys.readouterr().out


class Booted:
    """A cloud of one host. says: what it answers to an order."""

    folder, edge_port = Path(), 8080
    order = Cloud.order

    def __init__(self, **says: Any) -> None:
        self.says = says

    def hosts(self) -> list[Any]:
        return []

    def ask(self, *_: Any) -> dict[str, Any]:
        return self.says


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_that_the_cloud_refuses_is_a_failure(
    order: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(orders, "cloud_of", lambda _: Booted())
    assert main([order, "slave-1"]) == 0
    monkeypatch.setattr(orders, "cloud_of", lambda _: Booted(failed="slave-1 is no host"))
    assert main([order, "slave-1"]) == 1
    assert "slave-1 is no host" in capsys.readouterr().err


@pytest.mark.parametrize("status", [0, 1, 7, 130])
def test_a_command_on_a_host_ends_as_it_did_there(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place = SimpleNamespace(command=lambda _host, argv: ["sh", "-c", *argv])
    monkeypatch.setattr(exec_verb, "booted_cloud", lambda _: Booted())
    monkeypatch.setattr(exec_verb, "fleet", lambda *_: place)
    assert main(["exec", "slave-1", "--", f"exit {status}"]) == status


def test_the_log_of_a_host_that_printed_nothing_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "booted_cloud", lambda _: Booted())
    monkeypatch.setattr(logs, "console", lambda *_: tmp_path / "console")
    assert main(["logs", "slave-1"]) == 1
    (tmp_path / "console").write_text("up\n")
    assert main(["logs", "slave-1"]) == 0


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("passed", "absent", "status"), [([True, True], [], 0), ([True, False], [], 1), ([True], [False], 1)])
def test_a_check_ends_1_where_a_way_fails_or_a_host_is_not_there(
    passed: list[bool], absent: list[bool], status: int, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def results(flags: list[bool]) -> list[check.Result]:
        return [check.Result("ping", "slave-1", "slave-2", flag, "", 0) for flag in flags]

    exports = {"overlay": {"mtu": 8951}, "edge": {"domain": "apollo.test"}, "consul": {"domain": "consul"}}
    monkeypatch.setattr(check_verb, "booted_cloud", lambda _: Booted())
    monkeypatch.setattr(check_verb, "fleet", lambda *_: None)
    monkeypatch.setattr(check_verb, "host_names", lambda _: [])
    monkeypatch.setattr(check_verb, "stack_outputs", lambda _: exports)
    monkeypatch.setattr(demo, "running", lambda _: [])
    monkeypatch.setattr(check, "standing", lambda *_: ([], results(absent)))
    monkeypatch.setattr(check, "run", lambda *_, **__: results(passed))
    assert main(["check", *(["--json"] if as_json else [])]) == status


@pytest.mark.parametrize("as_json", [False, True])
def test_what_only_shows_something_ends_0(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "status", lambda _: [])
    monkeypatch.setattr(running, "stack_outputs", lambda _: {"vpcId": "vpc-1"})
    for verb in ("status", "outputs"):
        assert main([verb, *(["--json"] if as_json else [])]) == 0


def test_a_cloud_of_another_version_is_named_and_can_be_given_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APOLLO_RUN_DIR", str(tmp_path))
    folder = tmp_path / "local"
    folder.mkdir()
    process = subprocess.Popen(["sleep", "600"])
    try:
        (folder / "cloud.json").write_text(json.dumps({"pid": process.pid, "ticks": start_ticks(process.pid), "endpoint": "x"}))
        for argv in (["up"], ["down"], ["status"], ["exec", "slave-1", "--", "true"]):
            assert main(argv) == 1, argv
            err = capsys.readouterr().err
            assert f"process {process.pid}) was started by another version" in err and "down --force" in err
        assert process.poll() is None
        # Its own child, so it is there until this process has asked how it ended.
        threading.Thread(target=process.wait).start()
        assert main(["down", "--force"]) == 0
        assert process.wait() == -signal.SIGTERM
        assert not folder.exists()
    finally:
        process.kill()
