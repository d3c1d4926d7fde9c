"""The map: everything of the plan is in it, nothing overlaps, and a real browser shows it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as xml
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops.__main__ import main
from ops.map import Picture, page, picture, svg
from ops.survey import Node, Service, Survey
from plan.cluster import Cluster
from tests.plan.support import cluster

NAMESPACE = "{http://www.w3.org/2000/svg}"


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


def test_routes_name_the_healthy_instances_and_outsiders_stand_apart() -> None:
    said = texts(svg(drawn(cluster())))
    assert "web.apollo.test → 10.2.1.0:80" in said
    assert "www.example.com/shop → 10.2.1.0:80" in said
    assert "outside the overlay: database at 10.0.31.246:5432" in said


GOOD, BAD, IDLE = "#15803d", "#b91c1c", "#94a3b8"
Box = tuple[float, float, float, float]


def boxes(root: xml.Element, kind: str) -> list[Box]:
    """Left, top, right and bottom of each rectangle of a class."""
    sides = (
        [float(r.attrib[side]) for side in ("x", "y", "width", "height")]
        for r in root.iter(f"{NAMESPACE}rect")
        if r.get("class") == kind
    )
    return [(x, y, x + width, y + height) for x, y, width, height in sides]


def within(inner: Box, outer: Box) -> bool:
    return outer[0] < inner[0] and outer[1] < inner[1] and inner[2] < outer[2] and inner[3] < outer[3]


def apart(some: list[Box]) -> bool:
    return all(a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1] for a, b in combinations(some, 2))


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"slaves": {"count": 40}},
        {"zones": ["a", "b", "c"], "edge": {"count": 3, "domain": "apollo.example.com"}},
        {"slaves": {"count": 0}},
        {"overlay": {"mesh": "vxlan"}, "control": {"count": 1}},
    ],
)
def test_everything_is_drawn_where_it_is_and_over_nothing_else(raw: dict[str, Any]) -> None:
    plan = cluster(**raw)
    root = xml.fromstring(svg(drawn(plan)))
    page_ = (0.0, 0.0, float(root.attrib["width"]), float(root.attrib["height"]))
    assert root.attrib["viewBox"] == f"0 0 {page_[2]:g} {page_[3]:g}"
    (vpc,), subnets, cards = (boxes(root, kind) for kind in ("vpc", "subnet", "card"))
    assert within(vpc, page_) and all(within(one, vpc) for one in subnets)
    assert len(subnets) == 2 * len(plan.zones) and apart(subnets) and apart(cards)
    written = [(float(t.attrib["x"]), float(t.attrib["y"]), t.text or "") for t in root.iter(f"{NAMESPACE}text")]
    assert all(0 < x < page_[2] and 11 < y < page_[3] for x, y, _ in written)
    # Lines of text are at least their height apart wherever they begin at one place.
    by_x: dict[float, list[float]] = {}
    for x, y, _ in written:
        by_x.setdefault(x, []).append(y)
    for lines in by_x.values():
        assert all(low - high >= 14 for high, low in zip(sorted(lines), sorted(lines)[1:], strict=False))
    # Public above private, a zone's one above the other.
    named = {text: (x, y) for x, y, text in written}
    places = {}
    for zone in plan.zones:
        for kind, network in (("public", zone.public_subnet), ("private", zone.private_subnet)):
            x, y = named[f"{zone.name} {kind}, {network}"]
            (places[zone.name, kind],) = [box for box in subnets if within((x, y - 12, x, y), box)]
        above, below = places[zone.name, "public"], places[zone.name, "private"]
        assert (above[0], above[2]) == (below[0], below[2]) and above[3] < below[1]
    # Each host in its subnet, and what is said of it in its card, one line below the other.
    groups = {g.attrib["id"]: g for g in root.iter(f"{NAMESPACE}g")}
    assert list(groups) == [host.name for host in plan.hosts]
    colours = {"slave": "#2563eb", "control": "#7c3aed", "edge": "#c2410c"}
    for host in plan.hosts:
        group = groups[host.name]
        (card,) = boxes(group, "card")
        assert within(card, places[host.zone.name, "public" if host.role == "edge" else "private"])
        assert next(r for r in group.iter(f"{NAMESPACE}rect")).attrib["stroke"] == colours[host.role]
        heights = [float(t.attrib["y"]) for t in group.iter(f"{NAMESPACE}text")]
        assert heights == sorted(heights) and card[1] + 12 < heights[0] and heights[-1] < card[3]
        assert all(card[0] < float(t.attrib["x"]) < card[2] - 100 for t in group.iter(f"{NAMESPACE}text"))
        said = [t.text for t in group.iter(f"{NAMESPACE}text")]
        containers = [f"containers {host.docker_subnet}"] if host.docker_subnet else []
        services = {"slave-1": ["web 10.2.1.0:80"], "slave-2": ["web 10.2.2.0:80"]}.get(host.name, [])
        addresses = [f"VPC {host.private_ip}", f"bridge {host.bridge_address}"]
        assert said == [host.name, *addresses, *containers, f"generation 1, i-{host.index:04d}", *services]
        dots = [(float(c.attrib["cx"]), float(c.attrib["cy"]), c.attrib["fill"]) for c in group.iter(f"{NAMESPACE}circle")]
        assert [colour for *_, colour in dots] == [GOOD, *([GOOD] if host.name == "slave-1" else [BAD] if services else [])]
        # A host's own on the right of its name, a service's before it.
        assert all(card[0] < x < card[2] and card[1] < y < card[3] for x, y, _ in dots)
        assert abs(dots[0][1] - heights[0]) < 8 and dots[0][0] > card[0] + 150
        assert [abs(y - heights[-1]) < 8 and x < card[0] + 20 for x, y, _ in dots[1:]] == [True] * len(services)
    # Above it all what the edge routes, below it all what the colours mean.
    assert all(y < vpc[1] for _, y, text in written if "→" in text or "outside" in text)
    assert written[-1][1] > vpc[3] and written[-1][2].startswith("dot: green alive")
    # A link leads from the middle of one card to the middle of the other, and around those of its column.
    middles = {
        name: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        for name, (box,) in ((n, boxes(g, "card")) for n, g in groups.items())
    }
    paths = list(root.iter(f"{NAMESPACE}path"))
    assert len(paths) == (len(cards) * (len(cards) - 1) / 2 if len(cards) <= 16 else 0)
    for path in paths:
        one, other = (path.findtext(f"{NAMESPACE}title") or "").partition(": ")[0].split(" to ")
        xa, ya, xm, ym, xb, yb = map(float, re.findall(r"[-0-9.]+", path.attrib["d"]))
        assert ((xa, ya), (xb, yb)) == (middles[one], middles[other])
        assert ym == pytest.approx((ya + yb) / 2) and (abs(xm - xa) > 118 if xa == xb else xm == pytest.approx((xa + xb) / 2))


def test_a_picture_of_up_to_16_hosts_has_single_links() -> None:
    for count, links in ((16, 120), (17, 0)):
        plan = cluster(slaves={"count": count - 2}, control={"count": 1})
        assert svg(drawn(plan)).count("<path ") == links


def test_what_is_known_of_a_host_and_of_a_link_is_what_its_colour_says() -> None:
    plan = cluster()
    known = seen(plan, silent="slave-3")
    assert known.nodes is not None
    known.nodes["slave-2"]["alive"] = False
    del known.nodes["control-1"]
    known.mesh = {"slave-1": ["slave-2"], "slave-2": [], "control-1": ["slave-1"]}
    known.services.append(Service(name="consul", node="slave-1", address="10.0.0.33", port=8300, healthy=True))
    deployed = {host.name: f"i-{host.index}" for host in plan.hosts if host.name != "edge-1"} | {"control-3": ""}
    image = picture("test", plan, deployed, known)
    assert {name: card.state for name, card in image.cards.items()} == {
        "slave-1": "alive", "slave-2": "away", "slave-3": "away", "control-1": "away", "control-2": "alive",
        "control-3": "planned", "edge-1": "planned",
    }  # fmt: skip
    assert [entry["name"] for entry in image.cards["slave-1"].services] == ["web"], "Consul itself is on every host"
    # Both ends must have it, of those that were asked.
    asked = {
        ("slave-1", "slave-2"): False,
        ("slave-1", "control-1"): False,
        ("slave-1", "slave-3"): False,
        ("slave-3", "edge-1"): None,
    }
    assert {link: image.links[link] for link in asked} == asked
    known.mesh = {"slave-1": ["slave-2", "slave-3"], "slave-2": ["slave-1"]}
    image = picture("test", plan, deployed, known)
    assert [image.links["slave-1", other] for other in ("slave-2", "slave-3", "edge-1")] == [True, True, False]
    strokes = {
        title: (p.attrib["stroke"], p.attrib["opacity"])
        for p in xml.fromstring(svg(image)).iter(f"{NAMESPACE}path")
        if (title := p.findtext(f"{NAMESPACE}title"))
    }
    assert strokes["slave-1 to slave-2: in the mesh"] == (GOOD, "0.35")
    assert strokes["slave-1 to edge-1: missing in the mesh"] == (BAD, "0.9")
    assert strokes["slave-3 to edge-1: planned"] == (IDLE, "0.35")
    # Hosts that tell no catalog are not all dead.
    known.nodes = None
    assert "7 hosts, 5 away, 2 planned" in svg(picture("test", plan, deployed, known))
    assert "7 hosts, 5 deployed, 2 planned" in svg(picture("test", plan, deployed, None))


def tables(text: str) -> dict[str, list[list[str]]]:
    """Of the page, each table by its heading, row by row."""
    return {
        title: [re.findall(r"<t[hd]>([^<]*)</t[hd]>", row) for row in rows.split("</tr>")[:-1]]
        for title, rows in re.findall(r"<h2>(.*?)</h2>\n<table>(.*?)</table>", text, re.DOTALL)
    }


def test_the_page_has_the_same_as_tables() -> None:
    plan = cluster(slaves={"count": 1}, control={"count": 1})
    known = seen(plan)
    known.routes["idle.apollo.test/"] = "none"
    text = page(picture("test", plan, {host.name: "i-1" for host in plan.hosts}, known))
    assert tables(text) == {
        "Hosts": [
            ["host", "state", "zone", "VPC address", "bridge address", "Docker subnet", "generation"],
            ["slave-1", "alive", "eu-west-1a", "10.0.0.33", "10.2.0.1/16", "10.2.1.0/24", "1"],
            *(
                [h.name, "alive", h.zone.name, str(h.private_ip), str(h.bridge_address), "", "1"]
                for h in (*plan.control, *plan.edges)
            ),
        ],
        "Services": [
            ["service", "on", "address", "healthy", "published"],
            ["web", "slave-1", "10.2.1.0:80", "yes", "yes"],
            ["web", "slave-2", "10.2.2.0:80", "no", "yes"],
            ["database", "elsewhere", "10.0.31.246:5432", "yes", "no"],
        ],
        "Edge routes": [
            ["name", "healthy instances"],
            ["web.apollo.test", "10.2.1.0:80"],
            ["www.example.com/shop", "10.2.1.0:80"],
            ["idle.apollo.test", "none"],
        ],
    }
    assert text.startswith("<!doctype html>") and "<title>Apollo stack test</title>" in text
    assert "idle.apollo.test → no healthy instance" in text
    assert list(tables(page(picture("test", plan, {}, None)))) == ["Hosts"]


UNASKED = "drawn from plan and state alone: nothing is deployed, or there is no administrators' key"


@pytest.mark.parametrize(
    ("deployed", "key", "survey", "said", "states"),
    [
        ({}, True, Survey(), [UNASKED], "3 hosts, 3 planned"),
        ({"slave-1": "i-1"}, False, Survey(), [UNASKED], "3 hosts, 1 deployed, 2 planned"),
        (
            {"slave-1": "i-1"}, True, Survey(unreachable="no way"), ["drawn from plan and state alone: no way"],
            "3 hosts, 1 deployed, 2 planned",
        ),
        (
            {"slave-1": "i-1"}, True, Survey(nodes={}, silent={"a": "1"}, slow={"b": "2"}, odd={"c": "3"}),
            [f"{host} does not report its state: {why}" for host, why in (("a", 1), ("b", 2), ("c", 3))], "0 of 3 hosts alive",
        ),
    ],
)  # fmt: skip
def test_two_files_are_written_and_what_they_lack_is_said(
    deployed: dict[str, str], key: bool, survey: Survey, said: list[str], states: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plan = cluster(slaves={"count": 1}, control={"count": 1})
    asked: list[Any] = []

    def look(ssh: Any, _plan: Any, hosts: Any, progress: Any) -> Survey:
        assert callable(progress)
        asked.append((ssh, [host.name for host in hosts]))
        return survey

    hosts = {name: SimpleNamespace(instance_id=id) for name, id in deployed.items()}
    stack = SimpleNamespace(name="dev", plan=plan, hosts=hosts, access=lambda: "way" if key else None)
    monkeypatch.setattr("ops.stack.Stack", lambda _: stack)
    monkeypatch.setattr("ops.map.opened", nullcontext)
    monkeypatch.setattr("ops.survey.survey", look)
    assert main(["map", "--stack", "dev", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "apollo-dev.svg"), str(tmp_path / "apollo-dev.html")]
    assert err.splitlines() == said
    assert asked == ([("way", ["slave-1"])] if said != [UNASKED] else [])
    image, text = ((tmp_path / f"apollo-dev.{suffix}").read_text() for suffix in ("svg", "html"))
    assert states in image and image in text and text.startswith("<!doctype html>")


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


# Has the browser read a picture: [width, height, how many pixels are about of each wanted colour, as edges are smoothed].
COUNT = """<img src="data:image/png;base64,{}"><script>onload = () => {{
    const canvas = document.createElement("canvas"), [picture] = document.images
    ;[canvas.width, canvas.height] = [picture.width, picture.height]
    const pen = canvas.getContext("2d")
    pen.drawImage(picture, 0, 0)
    const bytes = pen.getImageData(0, 0, canvas.width, canvas.height).data, counts = []
    for (const wanted of {}) {{
        counts.push(0)
        for (let at = 0; at < bytes.length; at += 4)
            counts[counts.length - 1] += wanted.every((part, place) => Math.abs(bytes[at + place] - part) < 24)
    }}
    document.body.textContent = JSON.stringify([canvas.width, canvas.height, ...counts])
}}</script>"""
FLAGS = "--headless=new --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=1 --window-size=800,900"


def test_a_browser_shows_the_page_with_the_hosts_in_their_colours(chromium: str, tmp_path: Path) -> None:
    def shown(text: str, option: str) -> str:
        (tmp_path / "page.html").write_text(text)
        argv = [chromium, *FLAGS.split(), f"--user-data-dir={tmp_path}/profile", option, f"file://{tmp_path}/page.html"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout

    shown(page(drawn(cluster(), silent="slave-3")), f"--screenshot={tmp_path}/map.png")
    # Frames of slaves, control nodes and the edge, a green dot, and the red one of the lost host.
    least = {"2563eb": 500, "7c3aed": 500, "c2410c": 200, "15803d": 100, "b91c1c": 40}
    picture = base64.b64encode((tmp_path / "map.png").read_bytes()).decode()
    read = shown(COUNT.format(picture, [[*bytes.fromhex(colour)] for colour in least]), "--dump-dom")
    width, height, *found = json.loads(read.partition("<body>")[2].partition("</body>")[0])
    assert (width, height) == (800, 900)
    assert not [(colour, number) for (colour, few), number in zip(least.items(), found, strict=True) if number < few]


def test_the_readmes_picture_is_one_that_map_draws() -> None:
    image = (Path(__file__).parents[2] / "docs" / "map.svg").read_text()
    said = texts(image)
    assert said[0] == "Apollo stack local"
    assert {"slave-1", "control-3", "edge-1"} <= set(said)
    assert re.search(r"<style>text\{", image)
