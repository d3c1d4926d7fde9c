"""The documents say what the code does: tables, commands, links, paths and examples are checked against it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from plan.cluster import Cluster, plan_cluster
from plan.parse import parse
from plan.problems import PlanError
from scripts import tables
from tests.components.recording import stack_config
from tests.components.test_contract import EXPORTS
from tests.host.test_host_files import imported

ROOT = Path(__file__).resolve().parent.parent
DECISIONS = ROOT / "docs" / "decisions"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PYTHON_M = re.compile(r"(?:python -m (?P<module>[a-z_.]+)|\./apollo\b)(?: (?P<command>[a-z][a-z-]*))?(?P<rest>[^\n#|;&]*)")


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def read(path: Path) -> str:
    """The document as a reader sees it, without comments."""
    return re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.DOTALL)


def code(path: Path) -> Iterator[str]:
    """Everything that is set as code: fenced blocks as they are, spans with line breaks undone."""
    text = read(path)
    for match in FENCE.finditer(text):
        yield match[2].replace("\\\n", " ")
    for match in INLINE.finditer(FENCE.sub("", text)):
        yield " ".join(match[1].split())


def blocks(language: str) -> list[tuple[str, str]]:
    """(document, text) of every fenced block in a language."""
    found = [(path, match) for path in DOCUMENTS for match in FENCE.finditer(read(path)) if match[1] == language]
    return [(path.relative_to(ROOT).as_posix(), textwrap.dedent(match[2])) for path, match in found]


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.name)
def test_a_table_that_is_made_from_the_code_is_current(table: tables.Table) -> None:
    text = table.document.read_text()
    assert table.put(text) == text, "run: scripts/python -m scripts.tables --write"


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.name)
def test_a_document_without_a_place_for_its_table_is_refused(table: tables.Table) -> None:
    for text in ("", table.end + table.begin, 2 * (table.begin + table.end)):
        with pytest.raises(tables.TableError):
            table.put(text)


def test_every_make_target_that_is_named_exists() -> None:
    rules = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    named = {target for path in DOCUMENTS for text in code(path) for target in re.findall(r"\bmake ([a-z][a-z-]*)", text)}
    assert named, "the documents name no target at all"
    assert named <= targets


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(re.findall(r"^make ([a-z-]+) ", shown, re.MULTILINE)) == sorted(" ".join(phony).split())
    assert subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout == shown


def python_commands() -> dict[tuple[str, str], set[str]]:
    """(module, subcommand) → long options, of every `python -m` and `./apollo` that the documents name."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in DOCUMENTS:
        for text in code(path):
            for match in PYTHON_M.finditer(text):
                options = set(re.findall(r"--[a-z][a-z-]*", match["rest"]))
                module, command = match["module"] or "localcloud", match["command"] or ""
                if (module, command) == ("localcloud", "ops"):
                    # What follows is a day-two command with options of its own.
                    module, command = "ops", next(iter(re.findall(r"^ ([a-z]+)", match["rest"])), "")
                elif (module, command) == ("localcloud", "pulumi"):
                    options &= {"--program", "--empty-cloud", "--set", "--stack"}  # the others are Pulumi's
                found.setdefault((module, command), set()).update(options)
    return found


@pytest.mark.parametrize(("module", "command"), sorted(python_commands()))
def test_every_python_command_that_is_named_exists_with_its_options(module: str, command: str) -> None:
    assert importlib.util.find_spec(module) is not None
    options = python_commands()[module, command]
    if module == tables.__name__:
        assert options <= {"--write"}
        return
    argv = [sys.executable, "-m", module, *([command] if command else []), "--help"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert {option for option in options if option not in done.stdout} == set()


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", names(DOCUMENTS))
def test_every_relative_link_leads_somewhere(document: str) -> None:
    path = ROOT / document
    for link in LINK.findall(FENCE.sub("", read(path))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        leads_to = (path.parent / target).resolve() if target else path
        assert leads_to.exists(), f"{link} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", read(leads_to)), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{link}: no such heading"


@pytest.mark.parametrize("document", names(DOCUMENTS))
def test_every_path_of_the_repository_that_is_named_exists(document: str) -> None:
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    for text in code(ROOT / document):
        if re.fullmatch(rf"({folders})/[\w./-]*", text):
            assert (ROOT / text).exists(), f"{text} does not exist"


def test_every_document_that_the_code_refers_to_exists() -> None:
    for path, text in repository_texts():
        for name in re.findall(r"\bdocs/[\w/-]+\.md", text):
            assert (ROOT / name).exists(), f"{path}: {name} does not exist"


def repository_texts() -> Iterator[tuple[str, str]]:
    """Tracked and new files, less the ignored, that hold text."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        try:
            yield name, (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


def test_no_file_names_a_place_that_only_one_machine_has() -> None:
    # The administrators' home on a host is the same everywhere.
    place = re.compile(r"(?<![\w.}$~*])/(?:home(?!/admin\b)|Users|work)/\w+")
    assert [(name, found[0]) for name, text in repository_texts() if (found := place.search(text))] == []


def test_records_have_numbers_of_their_own_and_are_listed() -> None:
    assert len({path.name[:4] for path in RECORDS}) == len(RECORDS)
    linked = {link for link in LINK.findall((DECISIONS / "README.md").read_text()) if not link.startswith("../")}
    assert linked == {path.name for path in RECORDS}


@pytest.mark.parametrize("record", [path.name for path in RECORDS])
def test_a_record_is_short_and_says_what_was_not_chosen_and_why(record: str) -> None:
    lines = (DECISIONS / record).read_text().splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith(f"# {int(record[:4])}. ")
    assert re.match(r"Status: accepted\. Touches: ", lines[1])
    parts = [match[1] for line in lines if (match := re.match(r"- (Decision|Not chosen|Price|Proof|Look again when): ", line))]
    assert parts == ["Decision", "Not chosen", "Price", "Proof", "Look again when"]


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(LINK.findall(text))


@pytest.mark.parametrize("page", names(sorted((ROOT / "docs").glob("*.md"))))
def test_a_page_begins_with_what_its_reader_can_do_afterwards(page: str) -> None:
    assert re.match(r"# [^\n]+\n\nAfter this page you ", (ROOT / page).read_text())


def test_the_refusal_that_the_settings_page_shows_is_the_programs_own() -> None:
    (shown,) = [text for text in code(ROOT / "docs" / "settings.md") if "nothing was created" in text]
    raw = {"region": "eu-west-1", "overlay": {"cidr": "10.2.0.7/16"}, "slaves": {"instanceTyp": "m5.large"}}
    with pytest.raises(PlanError) as refused:
        parse(raw, "Pulumi.prod.yaml")
    assert str(refused.value) == shown.strip()


def fields(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(field, its type) in the contract's words."""
    if isinstance(value, dict):
        for name, inner in cast(dict[str, Any], value).items():
            yield from fields(inner, f"{prefix}.{'*' if name == 'slave-1' else name}".strip("."))
    else:
        yield prefix, {str: "string", float: "number", int: "number", list: "list of strings"}[type(value)]


def test_the_contracts_document_has_exactly_the_contracts_fields_and_their_types() -> None:
    described = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", (ROOT / "docs" / "contract.md").read_text(), re.MULTILINE)
    assert sorted(described) == sorted([*fields(EXPORTS), ("slaves", "map")])


@pytest.mark.parametrize(("document", "text"), blocks("python"))
def test_every_python_example_is_python(document: str, text: str) -> None:
    compile(text, document, "exec")


def section(config: dict[str, Any]) -> dict[str, Any]:
    own = {key.removeprefix("apollo:"): value for key, value in config.items() if key.startswith("apollo:")}
    return {"region": config.get("aws:region", "eu-west-1"), **own}


@pytest.mark.parametrize(("document", "text"), blocks("yaml"))
def test_every_example_of_a_stack_file_is_accepted(document: str, text: str) -> None:
    content = yaml.safe_load(text)
    config = content.get("config", content)
    parse(section(config), document)


def sets() -> list[str]:
    return sorted({s for path in DOCUMENTS for text in code(path) for s in re.findall(r'SET="([^"]+)"', text)})


@pytest.mark.parametrize("text", sets())
def test_every_example_of_a_changed_setting_is_accepted(text: str) -> None:
    raw: dict[str, Any] = {"region": "eu-west-1"}
    for pair in text.split():
        path, _, value = pair.partition("=")
        *above, last = path.split(".")
        place = raw
        for part in above:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value)
    parse(raw)


def planned(stack: str) -> Cluster:
    config = stack_config(stack)
    return plan_cluster(parse(section(config)))


def test_the_costs_count_the_machines_and_disks_that_the_stacks_have() -> None:
    rows = {cells[0]: cells for cells in costs_rows(6)}
    for column, stack in ((2, "dev"), (4, "prod")):
        cluster = planned(stack)
        for row, hosts in (("slaves", cluster.slaves), ("control nodes", cluster.control), ("edges", cluster.edges)):
            assert rows[row][column] == str(len(hosts))
            assert hosts[0].instance_type in rows[row][1]
        assert rows["disks (gp3)"][column] == f"{sum(host.root_gib + host.data_gib for host in cluster.hosts):,} GiB"
        gateways = len(cluster.zones) if cluster.settings.network.nat == "perZone" else 1
        assert rows["NAT gateways"][column] == str(gateways)
        balancers = len(cluster.zones) if len(cluster.edges) > 1 else 0
        assert rows["public IPv4 addresses"][column] == str(gateways + len(cluster.edges) + balancers)


def test_the_quotas_are_those_that_the_stacks_need() -> None:
    rows = {cells[0]: cells for cells in costs_rows(4)}
    vcpus = {"small": 2, "medium": 2, "large": 2, "xlarge": 4}
    for column, stack in ((1, "dev"), (2, "prod")):
        cluster = planned(stack)
        gateways = len(cluster.zones) if cluster.settings.network.nat == "perZone" else 1
        assert rows["elastic addresses: one an edge, one a NAT gateway"][column] == str(gateways + len(cluster.edges))
        needed = sum(vcpus[host.instance_type.partition(".")[2]] for host in cluster.hosts)
        assert rows["vCPUs of on-demand standard instances"][column] == str(needed)


def costs_rows(columns: int) -> list[list[str]]:
    rows = map(cells_of, (ROOT / "docs" / "costs-and-quotas.md").read_text().splitlines())
    return [cells for cells in rows if len(cells) == columns]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []


def test_the_program_imports_no_development_library_and_nothing_of_the_embedded_cloud() -> None:
    forbidden = {"localcloud", "tests", "scripts", "bench", "moto", "boto3", "rich", "yaml", "pytest", "hypothesis"}
    sources = [ROOT / name for name in ("__main__.py", "config.py", "outputs.py", "sdk_shortcuts.py")]
    sources += [path for folder in ("plan", "host", "components", "ops") for path in (ROOT / folder).rglob("*.py")]
    for source in sources:
        assert not imported(source.read_text()) & forbidden, source.relative_to(ROOT)
