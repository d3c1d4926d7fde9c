"""`./apollo` on a terminal: real shells complete its commands."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from localcloud.paths import REPOSITORY
from tests.host.support import needs

# How each shell is started without anybody's own settings, and readied.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(./apollo completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; source <(./apollo completion zsh)"),
}
SECONDS = 90.0


class Terminal:
    """An interactive shell on a terminal of its own. typed: what is on its line, answered by what it writes."""

    def __init__(self, shell: str, env: dict[str, str]) -> None:
        argv, ready = SHELLS[shell]
        self._own, its = pty.openpty()
        env = {**os.environ, **env, "PS1": "", "PS2": "", "TERM": "dumb", "LC_ALL": "C"}
        self._process = subprocess.Popen(
            argv, cwd=REPOSITORY, env=env, stdin=its, stdout=its, stderr=its, start_new_session=True
        )
        os.close(its)
        self.written = ""
        self.type(f"{ready}; echo rea''dy\n", "ready")

    def type(self, keys: str, expected: str) -> None:
        """Waits until the shell has written what is expected."""
        self.written = ""
        os.write(self._own, keys.encode())
        deadline = time.monotonic() + SECONDS
        while expected not in self.written:
            assert time.monotonic() < deadline, f"{keys!r} brought {self.written!r}, not {expected!r}"
            if select.select([self._own], [], [], 0.1)[0]:
                self.written += os.read(self._own, 65536).decode(errors="replace")

    def clear(self) -> None:
        self.type("\x15echo cle''ared\n", "cleared")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._own)


@pytest.fixture
def stack(tmp_path: Path) -> dict[str, str]:
    """A run directory with the state of a stack that has hosts."""
    state = tmp_path / "local/state/.pulumi/stacks/apollo/local.json"
    state.parent.mkdir(parents=True)
    hosts = [{"urn": f"u::{name}", "type": "aws:ec2/instance:Instance", "inputs": {"tags": {"apollo:host": name}}}
             for name in ("control-1", "slave-1", "slave-2")]  # fmt: skip
    state.write_text(json.dumps({"checkpoint": {"latest": {"resources": hosts}}}))
    return {"APOLLO_RUN_DIR": str(tmp_path)}


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_a_shell_completes_verbs_options_values_hosts_and_day_two_commands(shell: str, stack: dict[str, str]) -> None:
    needs(shell, shell)
    terminal = Terminal(shell, stack)
    try:
        for typed, completed in (
            ("./apollo ref", "refresh "),
            ("./apollo up --edge", "--edge-port "),
            ("./apollo status --stack de", "--stack dev "),
            ("./apollo exec con", "control-1 "),
            ("./apollo ops doc", "doctor "),
            ("./apollo ops roll --unch", "--unchecked "),
            ("./apollo pulumi --program examples/con", "consumer/"),
        ):
            terminal.type(f"{typed}\t", completed)
            terminal.clear()
        # Several that fit are listed.
        terminal.type("./apollo exec slave-\t\t", "slave-2")
        assert "slave-1" in terminal.written
    finally:
        terminal.close()
