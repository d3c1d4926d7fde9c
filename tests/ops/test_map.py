"""The map: everything of the plan is in it, nothing overlaps, and a real browser shows it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as xml
import zlib
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from ops.map import Picture, page, picture, svg
from ops.survey import Node, Service, Survey
from plan.cluster import Cluster, plan_cluster
from plan.parse import parse

NAMESPACE = "{http://www.w3.org/2000/svg}"


def cluster(**raw: Any) -> Cluster:
    return plan_cluster(parse({"region": "eu-west-1", **raw}))


def seen(plan: Cluster, *, silent: str = "") -> Survey:
    """A survey of a stack where all is well but for one host."""
    names = [host.name for host in plan.hosts]
    nodes = {
        name: Node(address="10.0.0.1", bridge="10.2.0.1", subnet="", alive=name != silent, maintenance=False) for name in names
    }
    services = [
        Service(name="web", node=f"slave-{slot}", address=f"10.2.{slot}.0", port=80, healthy=slot == 1) for slot in (1, 2)
    ]
    services.append(Service(name="database", node="elsewhere", address="10.0.31.246", port=5432, healthy=True))
    mesh = {name: [peer for peer in names if peer not in (name, silent)] for name in names if name != silent}
    routes = {"web.apollo.test/": "web", "www.example.com/shop/": "web"}
    return Survey(nodes, services, mesh, {silent: "no answer"} if silent else {}, routes=routes)


def drawn(plan: Cluster, silent: str = "") -> Picture:
    return picture("test", plan, {host.name: f"i-{host.index:04d}" for host in plan.hosts}, seen(plan, silent=silent))


def texts(image: str) -> list[str]:
    return [element.text or "" for element in xml.fromstring(image).iter(f"{NAMESPACE}text")]


def test_every_host_stands_there_with_its_addresses_generation_and_services() -> None:
    plan = cluster()
    said = texts(svg(drawn(plan)))
    for host in plan.hosts:
        assert {host.name, f"VPC {host.private_ip}", f"bridge {host.bridge_address}"} <= set(said)
    assert "containers 10.2.3.0/24" in said
    assert "web 10.2.1.0:80" in said
    assert f"eu-west-1b private, {plan.zones[1].private_subnet}" in said
    assert "7 of 7 hosts alive" in " ".join(said)


def test_routes_name_the_healthy_instances_and_outsiders_stand_apart() -> None:
    said = texts(svg(drawn(cluster())))
    assert "web.apollo.test → 10.2.1.0:80" in said
    assert "www.example.com/shop → 10.2.1.0:80" in said
    assert "outside the overlay: database at 10.0.31.246:5432" in said


def test_a_lost_host_is_red_and_so_are_its_links() -> None:
    image = svg(drawn(cluster(), silent="slave-3"))
    assert "slave-3: away" in image
    assert "slave-1 to slave-3: missing in the mesh" in image
    assert "slave-1 to slave-2: in the mesh" in image
    assert "6 of 7 hosts alive" in image


@pytest.mark.parametrize(
    "raw", [{}, {"slaves": {"count": 40}}, {"zones": ["a", "b", "c"], "edge": {"count": 3}}, {"slaves": {"count": 0}}]
)
def test_no_card_overlaps_another_or_leaves_the_picture(raw: dict[str, Any]) -> None:
    plan = cluster(**raw)
    image = drawn(plan)
    root = xml.fromstring(svg(image))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    cards = [(card.x, card.y, card.x + 236, card.y + card.height) for card in image.cards.values()]
    for left, top, right, bottom in cards:
        assert 0 < left < right < width
        assert 0 < top < bottom < height
    for a, b in combinations(cards, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_names_from_the_catalog_cannot_become_markup_nor_break_the_picture() -> None:
    plan = cluster()
    survey = seen(plan)
    survey.services[0]["name"] = "<script>alert(1)</script>\x1b]0;x\x07\x00\u202e"
    survey.services[2]["node"] = "\"'><img src=x>"
    survey.routes["\x0b<b>/"] = "web"
    image = picture("test", plan, {}, survey)
    xml.fromstring(svg(image))
    for text in (svg(image), page(image)):
        assert not {"<script>", "<img", "<b>"} & set(re.findall(r"<[a-z]+>?", text))
        assert all(character.isprintable() or character == "\n" for character in text)


def test_a_stack_that_is_only_planned_is_drawn_too() -> None:
    said = " ".join(texts(svg(picture("test", cluster(), {}, None))))
    assert "7 hosts, 7 planned" in said
    assert "none published, or no host could be asked" in said


@pytest.fixture(scope="session")
def chromium() -> str:
    """Debian's Chromium, installed where that is possible. Skips, or in CI fails, where it is not."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        lock = ["-o", "DPkg::Lock::Timeout=300"]
        subprocess.run(["apt-get", "-qq", *lock, "update"], capture_output=True, check=False)
        install = ["apt-get", "-qq", "-y", *lock, "install", "--no-install-recommends", "chromium"]
        subprocess.run(install, env=env, capture_output=True, check=False)
        found = shutil.which("chromium")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no browser: install chromium")
        pytest.skip("the screenshot of the map is left out: no browser; install chromium")
    return found


def pixels(path: Path) -> tuple[int, int, Counter[tuple[int, int, int]]]:
    """Width, height and how often each colour occurs in a PNG of 8-bit RGB or RGBA."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, header = 8, b"", b""
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        header, packed = (body, packed) if kind == b"IHDR" else (header, packed + body if kind == b"IDAT" else packed)
        at += 12 + size
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    assert header[8] == 8
    step = {2: 3, 6: 4}[header[9]]
    raw, line = zlib.decompress(packed), width * step
    before, colours = bytearray(line), Counter[tuple[int, int, int]]()
    for row in range(height):
        start = row * (line + 1)
        filter_, now = raw[start], bytearray(raw[start + 1 : start + 1 + line])
        for i in range(line):
            left, up, corner = (now[i - step] if i >= step else 0), before[i], (before[i - step] if i >= step else 0)
            if filter_ == 1:
                now[i] = (now[i] + left) & 255
            elif filter_ == 2:
                now[i] = (now[i] + up) & 255
            elif filter_ == 3:
                now[i] = (now[i] + (left + up) // 2) & 255
            elif filter_ == 4:
                guess = left + up - corner
                nearest = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))
                now[i] = (now[i] + nearest[2]) & 255
        colours.update(zip(now[0::step], now[1::step], now[2::step], strict=True))
        before = now
    return width, height, colours


def test_a_browser_shows_the_page_with_the_hosts_in_their_colours(chromium: str, tmp_path: Path) -> None:
    (tmp_path / "map.html").write_text(page(drawn(cluster(), silent="slave-3")))
    shot = tmp_path / "map.png"
    argv = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
    argv += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=800,900", f"--screenshot={shot}"]
    argv.append(f"file://{tmp_path}/map.html")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert shot.exists(), done.stderr
    width, height, colours = pixels(shot)
    assert (width, height) == (800, 900)

    def near(colour: str) -> int:
        """Pixels of about this colour: edges are smoothed."""
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return sum(n for seen, n in colours.items() if all(abs(a - b) < 24 for a, b in zip(seen, wanted, strict=True)))

    # Frames of slaves, control nodes and the edge, a green dot, and the red one of the lost host.
    for colour, least in (("#2563eb", 500), ("#7c3aed", 500), ("#c2410c", 200), ("#15803d", 100), ("#b91c1c", 40)):
        assert near(colour) >= least, f"{colour}: {near(colour)} pixels"


def test_the_readmes_picture_is_one_that_map_draws() -> None:
    image = (Path(__file__).parents[2] / "docs" / "map.svg").read_text()
    said = texts(image)
    assert said[0] == "Apollo stack local"
    assert {"slave-1", "control-3", "edge-1"} <= set(said)
    assert re.search(r"<style>text\{", image)
