"""What hosts and branches wrote, as it reaches a terminal, a command to paste and the doctor."""

from __future__ import annotations

import html
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.__main__ import main
from ops.comment import render
from ops.doctor import Finding, _live  # pyright: ignore[reportPrivateUsage]
from ops.errors import OpsError
from ops.gate import refusals
from ops.preview import Preview, parse
from ops.reach import Access, Ssh, Unreachable
from ops.survey import Survey, survey
from ops.text import MOST, argument, cleaned, lines, safe
from plan.cluster import Cluster
from tests.plan.support import cluster

# What moves a cursor, sets a title, hides text, turns its direction, ends a line, or is a command of GitHub's runner.
HOSTILE = "\x1b[2J\x1b]0;title\x07\r\nok\x00\x9b1m\u202e\u2028\u200b\n::add-mask::x\ud800 $(touch /tmp/x) `id` '; reboot #"


@given(st.text())
def test_safe_text_is_one_printable_line_of_bounded_length(text: str) -> None:
    shown = safe(text)
    assert shown.isprintable()
    assert len(shown) <= 10 * (MOST + 1)
    if text.isprintable() and len(text) <= MOST:
        assert shown == text


def test_lines_stay_lines_and_nothing_else_ends_one() -> None:
    assert lines("one\r\ntwo\x0bthree\n") == "one\ntwo\\x0bthree\n"


@given(st.text())
def test_a_shell_takes_an_argument_for_one_word_and_runs_nothing(text: str) -> None:
    assert shlex.split(f"true {argument(text)}") == ["true", safe(text)]


def test_a_shell_prints_the_hostile_argument_and_no_more() -> None:
    done = subprocess.run(["sh", "-c", f"printf %s {argument(HOSTILE)}"], capture_output=True, text=True, check=True)
    assert done.stdout == safe(HOSTILE)


def test_every_string_of_an_answer_is_cleaned_keys_too() -> None:
    assert json.dumps(cleaned(json.loads(json.dumps({HOSTILE: [HOSTILE, 1, None]})))).count("\\u001b") == 0


class Answering(Ssh):
    """Every host gives the same answer."""

    def __init__(self, folder: Path, answer: Callable[[str], str]) -> None:
        super().__init__(Access("203.0.113.2", "", "ssh-ed25519 AAAA"), folder)
        self.answer = answer

    def knock(self, seconds: float = 0) -> None:
        pass

    def run(self, address: str, program: str, *arguments: str, seconds: float) -> str:
        del seconds
        return json.dumps(dict.fromkeys(arguments[1:], "")) if program == "probe" else self.answer(address)


def told(**other: Any) -> dict[str, Any]:
    return {"consul": "active", "metrics": "active", "mesh": [], "checks": [], **other}


@pytest.fixture
def plan() -> Cluster:
    return cluster()


def findings(plan: Cluster, seen: Survey) -> list[Finding]:
    return list(_live("dev", plan, seen, set(), "203.0.113.2"))


def test_a_hosts_names_and_words_reach_the_doctor_printable_and_its_commands_quoted(plan: Cluster, tmp_path: Path) -> None:
    node = {"address": HOSTILE, "bridge": HOSTILE, "subnet": "", "alive": True, "maintenance": False}
    answer = told(
        mesh=[HOSTILE],
        checks=[{"check": HOSTILE, "detail": HOSTILE}],
        nodes={HOSTILE: node, "slave-1": node},
        services=[],
    )
    found = findings(plan, survey(Answering(tmp_path, lambda _: json.dumps(answer)), plan))
    forget = next(f for f in found if "--forget" in f.fix)
    assert shlex.split(forget.fix)[-4:] == [safe(HOSTILE), "--forget", "--address", safe(HOSTILE)]
    for finding in found:
        assert "".join((finding.host, finding.found, finding.fix, finding.between)).isprintable()
        for command in finding.fix.split(" && "):
            done = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
            assert done.stdout.splitlines() == shlex.split(command)


@pytest.mark.parametrize(
    "answer",
    ["[]", "null", "7", "{}", '{"consul": 1}', json.dumps(told(nodes={"slave-1": {}})), json.dumps(told(mesh={"a": 1})), "no"],
)
def test_a_host_that_tells_nonsense_is_named_and_hides_no_other(plan: Cluster, tmp_path: Path, answer: str) -> None:
    liar = str(plan.slaves[1].private_ip)
    seen = survey(Answering(tmp_path, lambda at: answer if at == liar else json.dumps(told())), plan)
    assert list(seen.odd) == ["slave-2"]
    assert len(seen.consul) == len(plan.hosts) - 1
    (finding,) = [f for f in findings(plan, seen) if f.host == "slave-2"]
    assert "answers, but does not report its state" in finding.found
    assert finding.fix == f"ssh -J admin@203.0.113.2 admin@{liar} sudo apollo-check"


# What a branch wrote, in a comment of its pull request.

MARKDOWN = (
    "@all #1 [x](https://evil.example) ![x](//evil.example/p) `a` **b** <img src=x> | &lt; www.evil.example\n\n# heading\x1b[2J"
)


def preview_with(text: str, stack: str = "dev") -> Preview:
    """A preview with the text wherever a branch can put one."""
    urn = f"urn:pulumi:{stack}::apollo::apollo:compute:Host::"
    inputs = {"generation": text, "privateIp": text, "bridgeAddress": text, "dockerSubnet": text, "instanceType": text}
    steps: list[dict[str, Any]] = [
        {"op": "create", "urn": f"{urn}slave-1", "newState": {"inputs": inputs}},
        {
            "op": "create",
            "urn": f"urn:pulumi:{stack}::apollo::apollo:compute:Host$aws:ec2/instance:Instance::slave-1-instance",
            "newState": {"parent": f"{urn}slave-1", "inputs": {}},
        },
        {
            "op": "delete",
            "urn": f"urn:pulumi:{stack}::apollo::aws:ec2/subnet:Subnet::{text}",
            "oldState": {"inputs": {"cidrBlock": text}},
        },
        {"op": "create", "urn": f"urn:pulumi:{stack}::apollo::aws:x:{text}::x"},
    ]
    return parse(json.dumps({"steps": steps, "changeSummary": {"create": 3, "delete": 1}}))


@pytest.mark.parametrize("given", [MARKDOWN, "www.evil.example", "http://evil.example"])
def test_a_branchs_names_are_text_in_a_comment_and_nothing_else(given: str) -> None:
    clean, text = (render(preview_with(t), "dev") for t in ("x", given))
    assert "refused by the gate" in text
    assert len(text.splitlines()) == len(clean.splitlines()), "a text ends no line"
    for line in text.splitlines():
        assert line.isprintable()
        outside = re.sub(r"<code>[^<]*</code>", "", line)
        assert not re.search(r"evil|@|#1|heading|img src", outside), outside
        for coded in re.findall(r"<code>([^<]*)</code>", line):
            assert re.fullmatch(r"(?:[\w ]|&#\d+;)*", coded), coded
            # A reader sees what it was.
            assert any(word in html.unescape(coded) for word in re.findall(r"\w{3,}", given))


def test_the_gates_words_about_a_branchs_names_are_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "preview.json"
    path.write_text(json.dumps({"diagnostics": [{"severity": "error", "message": f"no\n{HOSTILE}"}]}, ensure_ascii=True))
    assert main(["gate", str(path)]) == 2
    (refusal,) = [r for r in refusals(preview_with(MARKDOWN)) if r.kind == "network"]
    for line in (str(refusal), *capsys.readouterr().err.splitlines()):
        assert line.isprintable()


@pytest.mark.parametrize("stack", ["dev -->\n# x", "@all", ""])
def test_a_stack_without_a_stacks_name_gets_no_comment(stack: str) -> None:
    with pytest.raises(OpsError, match="is no name of a stack"):
        render(preview_with("x"), stack)


# Slow, silent and failing hosts.


def test_a_slow_host_is_not_called_dead_and_no_roll_is_advised(plan: Cluster, tmp_path: Path) -> None:
    def answer(at: str) -> str:
        if at == str(plan.slaves[0].private_ip):
            raise Unreachable("no end after 60 s", "slow")
        return json.dumps(told())

    seen = survey(Answering(tmp_path, answer), plan)
    assert (seen.slow, seen.silent) == ({"slave-1": "no end after 60 s"}, {})
    assert not [f for f in findings(plan, seen) if "roll" in f.fix]


def test_a_check_that_does_not_end_is_a_slow_one(plan: Cluster, tmp_path: Path) -> None:
    answer = told(mesh=[host.name for host in plan.hosts], slow="its apollo-check did not end within 40 s")
    seen = survey(Answering(tmp_path, lambda _: json.dumps(answer)), plan)
    assert set(seen.slow) == {host.name for host in plan.hosts}
    assert findings(plan, seen) == []


def test_a_host_that_answers_is_not_to_be_rolled_for_what_its_agent_does(plan: Cluster, tmp_path: Path) -> None:
    node = {"bridge": "", "subnet": "", "maintenance": False, "alive": False, "address": ""}
    answer = told(nodes={"slave-1": node}, mesh=[host.name for host in plan.hosts])
    found = findings(plan, survey(Answering(tmp_path, lambda _: json.dumps(answer)), plan))
    assert {f.found for f in found} == {"its agent does not answer the others", "is not in the catalog"}
    assert all(f.fix.endswith("sudo systemctl restart consul") for f in found)


@pytest.mark.parametrize(("answer", "named"), [({"metrics": "inactive"}, True), ({}, True), ({"metrics": "failed"}, False)])
def test_a_host_that_serves_no_metrics_yet_is_named(plan: Cluster, tmp_path: Path, answer: dict[str, str], named: bool) -> None:
    given = {"consul": "active", "mesh": [host.name for host in plan.hosts], **answer}
    found = findings(plan, survey(Answering(tmp_path, lambda _: json.dumps(given)), plan))
    assert {f.host for f in found if "serves no metrics" in f.found} == ({host.name for host in plan.hosts} if named else set())


def test_what_apollo_check_fails_is_named_but_not_what_follows_from_another_host(plan: Cluster, tmp_path: Path) -> None:
    full = "/data has 0.1 of 3.9 GiB free, 2 %"
    answer = told(
        mesh=[host.name for host in plan.hosts], checks=[{"check": "disks", "detail": full}, {"check": "mesh", "detail": "x"}]
    )
    found = findings(plan, survey(Answering(tmp_path, lambda _: json.dumps(answer)), plan))
    assert {f.found for f in found} == {f"apollo-check, disks: {full}"}
    assert len(found) == len(plan.hosts)
    assert all(f.fix.endswith("sudo du -xhd2 / /data") for f in found)
