"""What hosts and branches wrote, as it reaches a terminal, a command to paste and the doctor."""

from __future__ import annotations

import html
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.__main__ import main
from ops.comment import render
from ops.doctor import _live  # pyright: ignore[reportPrivateUsage]
from ops.errors import OpsError
from ops.gate import refusals
from ops.preview import Preview, parse
from ops.survey import survey
from ops.text import MOST, argument, cleaned, lines, safe
from tests.ops.test_survey import AT, PLAN, Answers, told

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


def test_a_hosts_names_and_words_reach_the_doctor_printable_and_its_commands_quoted(tmp_path: Path) -> None:
    node = {"address": HOSTILE, "bridge": HOSTILE, "subnet": "", "alive": True, "maintenance": False}
    answer = told(mesh=[HOSTILE], checks=[{"check": HOSTILE, "detail": HOSTILE}], nodes={HOSTILE: node, "slave-1": node})
    seen = survey(Answers(tmp_path, **{name.replace("-", "_"): answer for name in AT}), PLAN)
    found = list(_live("dev", PLAN, seen, set(), "203.0.113.2"))
    forget = next(f for f in found if "--forget" in f.fix)
    assert shlex.split(forget.fix)[-4:] == [safe(HOSTILE), "--forget", "--address", safe(HOSTILE)]
    for finding in found:
        assert "".join((finding.host, finding.found, finding.fix, finding.between)).isprintable()
        for command in finding.fix.split(" && "):
            done = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
            assert done.stdout.splitlines() == shlex.split(command)


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
