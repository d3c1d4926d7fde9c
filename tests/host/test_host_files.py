"""What lands on a host, as the host's own tools see it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from host import package
from plan.cluster import Cluster
from tests.host.support import EXAMPLES, HOSTS, USERDATA, files_of, needs, one_of_each, stand_in

# Programs that packages bring, and the units that ours name.
PROGRAMS = (
    "sbin/ifup",
    "sbin/modprobe",
    "usr/bin/consul",
    "usr/bin/consul-template",
    "usr/bin/java",
    "usr/sbin/mesos-agent",
    "usr/bin/prometheus-node-exporter",
    "usr/bin/python3",
    "usr/bin/systemctl",
    "usr/bin/wireguard-go",
)
PACKAGE_UNITS = ("docker.service", "dnsmasq.service", "haproxy.service", "ssh.service", "networking.service")


def root_of(plan: Cluster, host: Any, folder: Path) -> Path:
    """The host's files below a folder, each in its place and with its mode."""
    for file in files_of(plan, host).values():
        target = folder / file.path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.content)
        target.chmod(file.mode)
    return folder


@pytest.mark.parametrize(("plan", "host"), HOSTS)
def test_systemd_accepts_every_unit(plan: Cluster, host: Any, tmp_path: Path) -> None:
    analyze = needs("systemd-analyze", "systemd")
    root = root_of(plan, host, tmp_path)
    units = root / "lib/systemd/system"
    shutil.copytree("/lib/systemd/system", units, symlinks=True)
    for name in PACKAGE_UNITS:
        (units / name).write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    for name in (*PROGRAMS, "bin/true", "bin/kill"):
        stand_in(root / name, "")
    listed = [name for path in sorted((root / "etc/apollo/units.d").iterdir()) for name in path.read_text().split()]
    own = [path.name for path in (root / "etc/systemd/system").iterdir() if path.suffix in (".service", ".timer")]
    done = subprocess.run(
        [analyze, "verify", f"--root={root}", "--man=no", "--recursive-errors=no", *sorted({*listed, *own})],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "apollo" in line or any(name in line for name in own)]
    assert done.returncode == 0 and not ours, done.stderr


@pytest.mark.parametrize(("plan", "host"), HOSTS)
def test_every_unit_of_ours_is_started_by_the_list_a_timer_a_program_or_another_unit(plan: Cluster, host: Any) -> None:
    files = files_of(plan, host)
    listed = {name for path, file in files.items() if path.startswith("/etc/apollo/units.d/") for name in file.content.split()}
    own = {path.rpartition("/")[2] for path in files if path.startswith("/etc/systemd/system/") and path.count("/") == 4}
    by_timer = {name.replace(".timer", ".service") for name in listed if name.endswith(".timer")}
    by_program = {name for name in own for file in files.values() if f'"start", "{name}"' in file.content}
    wanted = "".join(file.content for path, file in files.items() if path.startswith("/etc/systemd/system/"))
    by_unit = {name for line in wanted.splitlines() if line.startswith("Wants=") for name in line[6:].split()}
    assert own <= listed | by_timer | by_program | by_unit
    assert listed - own <= {"docker.service", "dnsmasq.service", "haproxy.service", "ssh.service"}


def units_of(plan: Cluster, host: Any) -> dict[str, str]:
    """The text of each unit of ours, and of packages' units as far as we have added to it, by name."""
    found: dict[str, str] = {}
    for path, file in files_of(plan, host).items():
        if match := re.fullmatch(r"/etc/systemd/system/([^/]+\.service)(\.d/.+)?", path):
            found[match[1]] = found.get(match[1], "") + file.content + "\n"
    return found


def follows(units: dict[str, str], later: str, earlier: str) -> bool:
    """Whether systemd starts one after the other, where both are started or restarted in one go."""
    after = re.findall(r"^After=(.*)$", units.get(later, ""), re.MULTILINE)
    before = re.findall(r"^Before=(.*)$", units.get(earlier, ""), re.MULTILINE)
    return earlier in " ".join(after).split() or later in " ".join(before).split()


def modules_of(verb: str) -> set[str]:
    """The text of the modules that a verb of the host's program runs, by its first case that fits."""
    folder = USERDATA.parent / "apollo"
    for block in (folder / "__main__.py").read_text().split("\n        case [")[1:]:
        words = re.findall(r'"([a-z-]+)"', block.partition("]")[0])
        if verb.split()[: len(words)] == words or (" | " in block.partition("]")[0] and verb.split()[0] in words):
            names = re.findall(r"from host\.apollo\S* import (\w+)", block)
            return {path.read_text() for path in folder.rglob("*.py") if path.stem in names and path.stem != "local"}
    raise AssertionError(f"no case for {verb}")


# Whoever starts in the same go as apollo-secrets without waiting for it reads what was there before. A mesh's `up` reads none.
@pytest.mark.parametrize(("plan", "host"), HOSTS)
def test_whoever_reads_a_secret_starts_after_those_that_are_fetched_in_the_same_go(plan: Cluster, host: Any) -> None:
    files, units = files_of(plan, host), units_of(plan, host)
    readers: set[str] = set()
    for name, text in units.items():
        lines = "\n".join(line for line in text.splitlines() if line.startswith("Exec"))
        texts = {f.content for path, f in files.items() if path in lines and path.startswith("/etc/apollo/")}
        texts |= {content for verb in re.findall(r"apollo ([a-z][a-z -]*)", lines) for content in modules_of(verb)}
        texts |= {f.content for path, f in files.items() if path in lines and path.startswith("/usr/local/lib/")}
        if any(word in content for content in texts for word in ("local.secret(", "local.SECRETS", "/etc/apollo/secrets/")):
            readers.add(name)
    readers -= {"apollo-secrets.service"} | ({"apollo-mesh.service"} if plan.mesh.layers[0] == "routed" else set())
    expected = {"slave": "mesos-agent.service", "control": "mesos-master.service", "edge": "apollo-edge.service"}[host.role]
    assert {expected, "consul.service"} <= readers
    assert not [name for name in sorted(readers) if not follows(units, name, "apollo-secrets.service")]


def test_units_that_a_document_restarts_together_start_in_the_order_in_which_it_names_them() -> None:
    pairs = [(plan, host) for plan in EXAMPLES.values() for host in one_of_each(plan)]
    units = {name: text for plan, host in pairs for name, text in units_of(plan, host).items()}
    texts = [path.read_text() for path in sorted((USERDATA.parents[1] / "docs").glob("*.md"))]
    together = [match for text in texts for match in re.findall(r"systemctl (?:re)?start((?: [a-z][a-z-]+)+)", text)]
    named = {
        (f"{earlier}.service", f"{later}.service")
        for names in map(str.split, together)
        for index, earlier in enumerate(names)
        for later in names[index + 1 :]
    }
    assert ("apollo-secrets.service", "mesos-agent.service") in named
    assert not [pair for pair in sorted(named) if not follows(units, pair[1], pair[0])]


def test_the_two_lists_of_packages_are_only_where_they_are_needed() -> None:
    weave, baked = EXAMPLES["weave"], EXAMPLES["vxlan-baked"]
    library = "/usr/local/lib/apollo"
    there = {
        path for path in files_of(weave, weave.edges[0]) if path.startswith((f"{library}/packages/", f"{library}/provision"))
    }
    lists = ("base", "slave", "control", "edge", "hashicorp")
    assert there == {f"{library}/provision", *(f"{library}/packages/{name}.txt" for name in lists)}
    assert not [path for path in files_of(baked, baked.edges[0]) if "packages" in path or "provision" in path]


def imported(source: str) -> set[str]:
    """The modules that a Python file names, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_hosts_install_the_python_libraries_that_their_program_imports_and_no_other() -> None:
    named = {name for source in package.sources().values() for name in imported(source.read_text())}
    lists = (USERDATA / "packages/usr/local/lib/apollo/packages").glob("*.txt")
    libraries = {
        line.removeprefix("python3-") for path in lists for line in path.read_text().split() if line.startswith("python3-")
    }
    assert named - {"host", "plan"} - set(sys.stdlib_module_names) == libraries
