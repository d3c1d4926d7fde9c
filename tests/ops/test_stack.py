"""What the day-two commands ask of the Pulumi CLI, what they read out of its answers, and what of its words reach a person."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops import cli, pin_images, secrets
from ops import stack as stacks
from ops.__main__ import main
from ops.cli import Cli, CliError, words
from ops.errors import OpsError
from ops.reach import Access
from ops.stack import DeployedHost, Stack
from plan.secrets import SECRETS, together
from tests.components.recording import TEST_PUBLIC_KEY, TEST_SECRETS
from tests.host.support import stand_in
from tests.ops.conftest import Clock

URN = "urn:pulumi:dev::apollo::"
HOST = f"{URN}apollo:compute:Slaves$apollo:compute:Host::slave-1"
CONFIG: dict[str, Any] = {
    "aws:region": {"value": "eu-west-1"},
    "aws:profile": {"value": "mine"},
    "apollo:slaves": {"value": '{"count":2}', "objectValue": {"count": 2}},
    "apollo:zones": {"value": '["a"]'},
    "apollo:secrets": {"secret": True, "objectValue": dict(TEST_SECRETS)},
    "apollo:edgeCertificate": {"secret": True},
    "apollo:adminPrivateKey": {"value": "the key", "secret": True},
}
RESOURCES: list[dict[str, Any]] = [
    {"type": "pulumi:pulumi:Stack", "urn": f"{URN}pulumi:pulumi:Stack::apollo-dev", "outputs": {"edge": {"publicIps": ["203.0.113.2", "203.0.113.3"]}}},
    {"type": "apollo:compute:Host", "urn": HOST, "inputs": {"generation": 3.0, "hostFiles": "aaaa", "privateIp": "10.0.0.33", "instanceType": "t3.large"}},
    {"type": "aws:ec2/instance:Instance", "urn": f"{HOST}-instance", "parent": HOST, "id": "i-1", "outputs": {"instanceType": "t3.medium"}},
    # Of an `up` that failed before its machine.
    {"type": "apollo:compute:Host", "urn": HOST.replace("slave-1", "slave-2")},
    {"type": "aws:ec2/instance:Instance", "urn": f"{URN}aws:ec2/instance:Instance::other", "parent": URN, "id": "i-9"},
]  # fmt: skip


class Pulumi:
    """The CLI by a table of what it prints, with what it was asked."""

    folder = Path("folder")

    def __init__(self, **answers: str | Exception) -> None:
        self.answers: dict[str, str | Exception] = {
            "config": json.dumps(CONFIG),
            "stack export": json.dumps({"deployment": {"resources": RESOURCES}}),
            **{name.replace("_", " "): answer for name, answer in answers.items()},
        }
        self.asked: list[tuple[str, ...]] = []

    def run(self, *arguments: str, stdin: str = "", on_line: Callable[[str], object] = lambda _: None) -> str:
        assert arguments[-2:] == ("--stack", "dev") and not stdin
        self.asked.append(arguments[:-2])
        answer = self.answers.get(" ".join(arguments[:2]), self.answers.get(arguments[0], ""))
        if isinstance(answer, Exception):
            raise answer
        for line in answer.splitlines(keepends=True):
            on_line(line)
        return answer


def opened(monkeypatch: pytest.MonkeyPatch, **answers: str | Exception) -> tuple[Stack, Pulumi]:
    pulumi = Pulumi(**answers)
    monkeypatch.setattr(stacks, "Cli", lambda: pulumi)
    found = Stack("dev")
    assert pulumi.asked.pop(0) == ("stack", "select")
    return found, pulumi


def test_a_stack_that_is_not_there_is_named_with_the_command_that_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for complaint, said in (
        ("error: no stack named 'dev' found", "there is no stack dev in this backend; `pulumi stack ls` lists them, `pulumi stack init dev` makes it"),
        ("error: no passphrase", "no passphrase"),
    ):  # fmt: skip
        with pytest.raises(OpsError) as refused:
            opened(monkeypatch, stack_select=CliError("", complaint, "stack", 255))
        assert str(refused.value) == said


def test_secrets_are_asked_for_where_they_are_needed_alone_and_never_reach_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, pulumi = opened(monkeypatch)
    assert stack.config() == {
        "region": "eu-west-1", "slaves": {"count": 2}, "zones": ["a"], "secrets": dict(TEST_SECRETS),
        "edgeCertificate": None, "adminPrivateKey": "the key",
    }  # fmt: skip
    assert [host.name for host in stack.plan.slaves] == ["slave-1", "slave-2"]
    assert pulumi.asked == [("config", "--json")] * 2
    stack.config(secrets=True)
    assert pulumi.asked[-1] == ("config", "--json", "--show-secrets")
    assert (stack.file, stack.folder) == ("Pulumi.dev.yaml", Path("folder"))


def test_a_stack_file_with_problems_has_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, _ = opened(monkeypatch, config=json.dumps({**CONFIG, "apollo:slaves": {"objectValue": {"count": -1}}}))
    with pytest.raises(OpsError, match=r"^Pulumi.dev.yaml: 1 problem.*\n  slaves.count: -1 is out of range"):
        _ = stack.plan


@pytest.mark.parametrize(("role", "section"), [("slave", "slaves"), ("control", "control"), ("edge", "edge")])
def test_a_generation_is_set_in_the_section_of_its_role(role: str, section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, pulumi = opened(monkeypatch)
    stack.set_generation(role, 2, 7)
    assert pulumi.asked == [("config", "set", "--path", f"{section}.generations.2", "7")]


def test_an_up_tells_of_each_event_and_fails_with_the_engines_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        {"diagnosticEvent": {"severity": "warning", "message": "slow"}},
        {"resOutputsEvent": {}},
        {"diagnosticEvent": {"severity": "error", "message": "no capacity"}},
    ]
    printed = "Updating (dev)\n" + "".join(f"{json.dumps(event)}\n" for event in events)
    stack, pulumi = opened(monkeypatch, up=printed)
    seen: list[Any] = []
    stack.up(seen.append)
    assert seen == events
    assert pulumi.asked == [("up", "--yes", "--skip-preview", "--suppress-outputs", "--json")]

    def fails(*_arguments: str, on_line: Callable[[str], object], **_: Any) -> str:
        for line in printed.splitlines():
            on_line(line)
        raise CliError(printed, "error: update failed", "up", 255)

    monkeypatch.setattr(pulumi, "run", fails)
    with pytest.raises(OpsError, match=r"^no capacity\n  update failed$"):
        stack.up(seen.append)


def test_hosts_and_exports_are_read_from_the_state_once_until_it_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, pulumi = opened(monkeypatch)
    assert stack.hosts == {
        "slave-1": DeployedHost("slave-1", 3, "i-1", "t3.medium", "aaaa", "10.0.0.33"),
        "slave-2": DeployedHost("slave-2", 1, "", "", "", ""),
    }
    assert stack.outputs == RESOURCES[0]["outputs"]
    assert stack.resources == RESOURCES
    assert pulumi.asked == [("stack", "export")]
    pulumi.answers["stack export"] = '{"deployment": {}}'
    stack.reread()
    stack.reread()
    assert stack.hosts == {}
    with pytest.raises(OpsError, match=r"^stack dev is not deployed; `pulumi up -s dev` does that$"):
        _ = stack.outputs
    assert pulumi.asked == [("stack", "export")] * 2


PREVIEW = json.dumps({"steps": [], "changeSummary": {"same": 4}})
FAILED = json.dumps({"diagnostics": [{"severity": "error", "message": "slaves.count: -1"}]})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (PREVIEW, ""),
        (CliError(FAILED, "error: preview failed", "preview", 255), "the preview is of a preview that failed, so it says nothing about the change:\n  slaves.count: -1"),
        (CliError(" \n", "error: no credentials", "preview", 255), "no credentials"),
    ],
)  # fmt: skip
def test_a_preview_is_read_and_a_failed_one_says_why(
    answer: str | Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, pulumi = opened(monkeypatch, preview=answer)
    if said:
        with pytest.raises(OpsError) as failed:
            stack.preview("--refresh")
        assert str(failed.value) == said
    else:
        assert stack.preview("--refresh").counts == {"same": 4}
    assert pulumi.asked == [("preview", "--json", "--refresh")]


CIDRS = {"allowedCidrs": ["203.0.113.7/32"]}


@pytest.mark.parametrize(
    ("admin", "key", "given"),
    [
        (CIDRS, "the key", "the key"),
        ({**CIDRS, "agent": True}, None, ""),
        ({**CIDRS, "agent": True}, "the key", "the key"),
        (CIDRS, None, None),
        ({"agent": True}, "the key", None),
        (None, "the key", None),
    ],
)
def test_hosts_are_reached_with_the_stacks_key_or_the_agents_where_ssh_is_open(
    admin: dict[str, Any] | None, key: str | None, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**CONFIG, "apollo:admin": {"objectValue": admin}, "apollo:adminPrivateKey": {"value": key}}
    if admin is None:
        del config["apollo:admin"]
    stack, pulumi = opened(monkeypatch, config=json.dumps(config))
    assert stack.access() == (None if given is None else Access("203.0.113.2", given, TEST_PUBLIC_KEY))
    assert pulumi.asked[0] == ("config", "--json", "--show-secrets")


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program of the CLI's name on PATH: what is looked at is how we call it and read it."""
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("APOLLO_WORK", str(tmp_path / "work"))
    return lambda text: stand_in(tmp_path / "pulumi", text).parent


def test_the_cli_runs_in_the_projects_folder_apart_from_the_terminal_and_is_read_as_it_prints(
    pulumi: Callable[[str], Path],
) -> None:
    folder = pulumi('echo "$*|$(pwd)|$(ps -o pgid= -p $$)|$$"\ncat\necho warning >&2')
    lines: list[str] = []
    printed = Cli().run("config", "set", stdin="value\nof two lines", on_line=lines.append)
    assert lines == printed.splitlines(keepends=True)
    asked, where, group, process = lines[0].split("|")
    assert (asked, where) == ("config set --non-interactive", str(folder / "work"))
    assert int(group) == int(process), "Ctrl-C on the terminal reaches it"
    assert "".join(lines[1:]) == "value\nof two lines"


@pytest.mark.parametrize(
    ("torn", "other", "ends", "slept"),
    [(0, "", "done", 0), (3, "", "done", 3), (9, "", "done", 9), (10, "", "failed to load checkpoint: torn", 9), (0, "error: no", "no", 0)],
)  # fmt: skip
def test_a_state_that_is_just_being_written_is_read_again_and_nothing_else_is_tried_twice(
    torn: int, other: str, ends: str, slept: int, pulumi: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "time", clock := Clock())
    pulumi(
        'cd "${0%/*}"\necho look >> looks\necho done\n'
        f'[ $(wc -l < looks) -gt {torn} ] || {{ echo "error: failed to load checkpoint: torn" >&2; exit 255; }}\n'
        f'[ -z "{other}" ] || {{ echo "{other}" >&2; exit 255; }}\n'
    )
    if ends == "done":
        assert Cli().run("preview") == "done\n"
    else:
        with pytest.raises(CliError) as failed:
            Cli().run("preview")
        assert (str(failed.value), failed.value.printed, failed.value.status) == (ends, "done\n", 1)
    assert clock.slept == [0.3] * slept


def test_what_runs_is_interrupted_and_what_has_ended_is_not(pulumi: Callable[[str], Path]) -> None:
    waits = (
        "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(3)); print('ready', flush=True); signal.pause()"
    )
    pulumi(f'exec {sys.executable} -c "{waits}"')
    running = Cli()
    with pytest.raises(CliError, match=r"^pulumi up ended with 3$"):
        running.run("up", on_line=lambda _: running.interrupt())
    running.interrupt()


@pytest.mark.parametrize(
    ("complaint", "said"),
    [
        ("", ""),
        ("error: one\nwarning: x\n  error: two\nerror: one\n", "one\n  two"),
        ("1\n2\n\n3\n4\n5\n6\n", "2\n  3\n  4\n  5\n  6"),
        ("error: \x1b[31mred\n", "\\x1b[31mred"),
        ("error: the stack is currently locked by 1 lock(s)\n  created by a@b (pid 7)\n", "somebody else is updating the stack (created by a@b (pid 7))"),
        ("error: [409] Conflict: Another update is currently in progress.\n", "somebody else is updating the stack"),
    ],
)  # fmt: skip
def test_of_what_the_engine_complains_its_errors_are_said(complaint: str, said: str) -> None:
    assert words(complaint) == said


def known(*lacking: str) -> dict[str, Any]:
    kept = {key: value for key, value in TEST_SECRETS.items() if key not in lacking}
    return {"apollo:secrets": {"objectValue": kept}, "apollo:consul": {"objectValue": {"datacenter": "dc9", "log": "x"}}}


@pytest.mark.parametrize(
    ("config", "rotate", "made"),
    [
        (known(), (), []),
        (known("gossipKey", "meshPassword"), (), ["gossipKey", "meshPassword"]),
        ({}, (), [secret.key for secret in SECRETS]),
        ({"apollo:secrets": {"value": "text"}}, (), [secret.key for secret in SECRETS]),
        ({"apollo:secrets": "text"}, (), [secret.key for secret in SECRETS]),
        (known("gossipKey"), ("meshPassword",), ["meshPassword"]),
        # Certificates are of one authority, whose key is not kept.
        (known("consulCa"), (), together(["consulCa"])),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_missing_secrets_are_made_or_those_to_rotate_and_no_value_is_shown(
    config: dict[str, Any], rotate: tuple[str, ...], made: list[str], as_json: bool, pulumi: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked: list[dict[str, str]] = []
    values = {secret.key: f"new-{secret.key}" for secret in SECRETS}
    monkeypatch.setattr(secrets, "generate", lambda **given: asked.append(given) or values)
    folder = pulumi('cd "${0%/*}"\n[ "$2" != set ] && cat config || echo "$*: $(cat)" >> stored')
    (folder / "config").write_text(json.dumps(config))
    options = [word for key in rotate for word in ("--rotate", key)]
    assert main(["secrets", "--stack", "dev", *options, *(["--json"] if as_json else [])]) == 0
    stored = folder / "stored"
    set_each = "config set --stack dev --path --secret apollo:secrets.{0} --non-interactive: new-{0}"
    assert (stored.read_text().splitlines() if stored.exists() else []) == [set_each.format(key) for key in made]
    # Certificates carry Consul's names.
    assert asked == [{"datacenter": "dc9"} if "apollo:consul" in config else {}]
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out) == {"stack": "dev", "made": made}
    else:
        first, *listed, last = out.splitlines()
        assert first == f"{len(made)} of {len(SECRETS)} secrets to make for stack dev"
        assert listed == [f"  made {key}" for key in made]
        assert last == "Pulumi.dev.yaml holds them encrypted; commit it. `pulumi up` stores them in SSM."


@pytest.mark.parametrize(
    ("tool", "words"),
    [("", "ssh-keygen is not installed; install openssh-client"), ("echo ' no entropy ' >&2\nexit 1", "ssh-keygen failed: no entropy")],
)  # fmt: skip
def test_a_tool_that_is_missing_or_fails_is_named(
    tool: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tool:
        stand_in(tmp_path / "ssh-keygen", tool)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(secrets.SecretsError) as failed:
        secrets._host_key()  # pyright: ignore[reportPrivateUsage]
    assert str(failed.value) == words


@pytest.mark.parametrize("pinned", [{}, {"overlay.weaveFrom": "x/y@sha256:0"}])
def test_what_was_pinned_is_listed(
    pinned: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pin_images, "pin", lambda stack: pinned if stack == "dev" else None)
    assert main(["pin-images", "--stack", "dev"]) == 0
    assert capsys.readouterr().out == ("  overlay.weaveFrom: x/y@sha256:0\n" if pinned else "nothing to pin\n")
    assert main(["pin-images", "--stack", "dev", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stack": "dev", "pinned": pinned}
