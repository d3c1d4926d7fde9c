"""The AMI's template: what it uploads is there, and is what the script that it runs reads. Packer itself has never run it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.machines.image import BAKE, PACKAGES, PROVISION
from tests.userdata.support import USERDATA

IMAGE = USERDATA.parent / "image"
TEMPLATE = (IMAGE / "apollo.pkr.hcl").read_text()
SCRIPT = BAKE.read_text()


def expanded(text: str) -> str:
    """A string of the template with the folder it stands in, and its own locals, put in."""
    for name, value in re.findall(r'^ {2}(\w+) += "(.*)"$', TEMPLATE, re.MULTILINE):
        text = text.replace(f"${{local.{name}}}", value)
    return text.replace("${path.root}", str(IMAGE))


def sources() -> list[Path]:
    """What the template uploads."""
    listed = re.findall(r"^ +sources? += (.*)$", TEMPLATE.partition('provisioner "file"')[2], re.MULTILINE)
    return [Path(expanded(text)) for line in listed for text in re.findall(r'"(.*?)"', line)]


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that FILES names, after the upload: a source without a slash at its end arrives under its own name."""
    folder = tmp_path_factory.mktemp("files")
    assert re.search(r'^ +destination += "/tmp/"$', TEMPLATE, re.MULTILINE)
    assert "FILES=${FILES:-/tmp}" in SCRIPT
    for source in sources():
        if source.is_dir():
            shutil.copytree(source, folder / source.name)
        else:
            shutil.copy2(source, folder)
    return folder


def read_by_the_script() -> Iterator[str]:
    yield from re.findall(r'"\$FILES(?:"/|/)([\w./*-]+)', SCRIPT)


def test_every_source_of_an_upload_exists() -> None:
    assert [source for source in sources() if not source.exists()] == []
    assert len(sources()) == 2


def test_what_the_script_reads_is_there_after_the_upload(uploaded: Path) -> None:
    wanted = set(read_by_the_script())
    assert wanted == {"provision", "packages", "packages/*.txt"}
    assert [path for path in wanted if not list(uploaded.glob(path))] == []


def test_the_upload_is_what_the_local_image_is_baked_from(uploaded: Path) -> None:
    assert (uploaded / "provision").read_bytes() == PROVISION.read_bytes()
    assert {path.name for path in (uploaded / "packages").iterdir()} == {path.name for path in PACKAGES.iterdir()}


def test_each_role_that_the_template_names_has_its_list(uploaded: Path) -> None:
    roles = re.search(r"^ +default += (\[.*\])$", TEMPLATE.partition('variable "roles"')[2], re.MULTILINE)
    assert roles
    for role in re.findall(r"\w+", roles[1]):
        assert (uploaded / f"packages/{role}.txt").is_file()


def test_nothing_of_the_upload_stays_in_the_image(uploaded: Path) -> None:
    removed = re.search(r"^rm -rf .*$", SCRIPT, re.MULTILINE | re.DOTALL)
    assert removed
    assert [path.name for path in uploaded.iterdir() if f'"$FILES/{path.name}"' not in removed[0]] == []
