"""`exec` as it is typed: what other tests of booted hosts call in their own process."""

from __future__ import annotations

from tests.booted.conftest import Stack
from tests.localcloud.test_imports import slow_modules


def test_exec_passes_status_and_both_outputs_on_and_waits_for_no_library(stack: Stack) -> None:
    argv = ["exec", "slave-1", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]
    done = stack.cli(*argv)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    here = stack.run("slave-1", *argv[3:])
    assert (here.returncode, here.stdout, here.stderr) == (7, "out\n", "err\n")
    assert slow_modules("localcloud", [argv], stack.run_dir) == {" ".join(argv): (7, set())}
    refused = stack.cli("exec", "slave-99", "--", "true")
    assert refused.returncode == 1 and "no host slave-99; there are: control-1" in refused.stderr
    assert stack.run("slave-99", "true").stderr == refused.stderr
