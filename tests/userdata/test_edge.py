"""The edge: what of Consul's catalog becomes a route, with the real Consul, consul-template and HAProxy on the loopback."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from localcloud.boot import edge_certificate
from localcloud.errors import LocalCloudError
from localcloud.programs import host_program
from tests.userdata.edge import CONTAINER, CONTROL, Edge, Instance, until
from tests.userdata.support import left_out, needs

NOBODY = "No service is published under this name.\n"
HEALTH = "/.apollo/health"


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Generator[Callable[..., Edge]]:
    haproxy = needs("haproxy", "haproxy")
    try:
        consul, template = host_program("consul"), host_program("consul-template")
    except LocalCloudError as error:
        left_out(str(error))
    made: list[Edge] = []

    def edge(**facts: str) -> Edge:
        made.append(Edge(tmp_path_factory.mktemp("edge") / "host", consul, template, haproxy, facts))
        return made[-1]

    yield edge
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def edge(make: Callable[..., Edge]) -> Edge:
    """An edge that serves what is in its catalog. Each test brings services with names of their own."""
    edge = make(EDGE_PUBLISH="listed also-listed", EDGE_DEFAULT_SERVICE="front")
    for name in ("consul", "haproxy"):
        edge.start(name)
    assert edge.ask(HEALTH).status == 503
    edge.start("template")
    until(lambda: edge.ask(HEALTH).status == 200, "the catalog has been read")
    return edge


@pytest.fixture
def instance() -> Generator[Callable[..., Instance]]:
    made: list[Instance] = []

    def make(name: str, address: str = CONTAINER, seconds: float = 0) -> Instance:
        made.append(Instance(name, address, seconds))
        return made[-1]

    yield make
    for one in made:
        one.close()


def answers(edge: Edge, host: str, text: str, path: str = "/") -> None:
    until(lambda: edge.ask(path, host).text == text, f"{host}{path} answers {text!r}; services:\n{edge.services}")


Make = Callable[..., Instance]


def test_a_published_service_answers_at_its_name_and_an_unpublished_one_does_not(edge: Edge, instance: Make) -> None:
    hello = instance("hello")
    edge.register("quiet", hello, tags=[])
    edge.register("hello", hello)
    answers(edge, "hello.apollo.test", "hello /")
    assert edge.ask("/x?y=1", "HELLO.Apollo.Test.:8080").text == "hello /x?y=1"
    for name in ("quiet.apollo.test", "nothing.apollo.test", "apollo.test", "hello", "hello.apollo.test.evil.example", ""):
        answer = edge.ask("/", name)
        assert (answer.status, answer.text) == (404, NOBODY), name
        assert answer.headers["content-type"] == "text/plain"


def test_what_the_settings_list_is_published_without_the_tag(edge: Edge, instance: Make) -> None:
    edge.register("listed", instance("listed"), tags=[])
    answers(edge, "listed.apollo.test", "listed /")


def test_the_default_service_answers_for_names_that_nobody_has_and_no_others(edge: Edge, instance: Make) -> None:
    front = instance("front")
    edge.register("front", front, tags=[], id="apollo:front:1")
    edge.register("taken", front, passing=False)
    answers(edge, "whatever.example.com", "front /")
    until(lambda: edge.ask("/", "taken.apollo.test").status == 503, "a service without instances does not fall to the default")
    edge.deregister("apollo:front:1")
    until(
        lambda: edge.ask("/", "whatever.example.com").status == 404,
        f"the default is gone {edge.services} {edge.consul('catalog/services')}",
        8,
    )


def test_a_published_service_without_a_passing_instance_is_a_plain_503(edge: Edge, instance: Make) -> None:
    edge.register("sick", instance("sick"), passing=False)
    until(lambda: edge.ask("/", "sick.apollo.test").status == 503, "503")
    answer = edge.ask("/", "sick.apollo.test")
    assert answer.headers["content-type"] == "text/plain" and "No instance" in answer.text


def test_extra_hosts_and_paths_go_to_the_longest_prefix(edge: Edge, instance: Make) -> None:
    edge.register("site", instance("site"), tags=["public", "host=www.example.com", "host=example.com"])
    edge.register("api", instance("api"), tags=["public", "host=www.example.com", "path=/api", "path=/v2/"])
    edge.register("v1", instance("v1"), tags=["public", "host=www.example.com", "path=/api/v1"])
    answers(edge, "www.example.com", "v1 /api/v1/x", "/api/v1/x")
    for host, path, text in (
        ("www.example.com", "/", "site"),
        ("example.com", "/api", "site"),
        ("www.example.com", "/api", "api"),
        ("www.example.com", "/api/", "api"),
        ("www.example.com", "/v2?q=/api/v1", "api"),
        ("www.example.com", "/apiary", "site"),
        ("www.example.com", "/api/v1", "v1"),
        ("www.example.com", "/api/v10", "api"),
        ("api.apollo.test", "/elsewhere", "api"),
    ):
        assert edge.ask(path, host).text == f"{text} {path}", f"{host}{path}"


def test_a_path_without_a_host_holds_for_names_that_nobody_has(edge: Edge, instance: Make) -> None:
    edge.register("anywhere", instance("anywhere"), tags=["public", "path=/anywhere"])
    edge.register("other", instance("other"))
    answers(edge, "127.0.0.1", "anywhere /anywhere/x", "/anywhere/x")
    answers(edge, "other.apollo.test", "other /anywhere", "/anywhere")
    assert edge.ask("/anywhereelse").status == 404


def test_of_two_that_want_the_same_the_first_in_the_alphabet_wins_and_the_loser_is_named(edge: Edge, instance: Make) -> None:
    # In the order that would win if time decided.
    edge.register("b-later", instance("b"), tags=["public", "host=shop.example.com", "path=/cart"])
    answers(edge, "shop.example.com", "b /cart", "/cart")
    edge.register("a-first", instance("a"), tags=["public", "host=shop.example.com", "path=/cart"])
    answers(edge, "shop.example.com", "a /cart", "/cart")
    note = "wants shop.example.com/cart/ which a-first has"
    assert f"warning b-later {note}" in edge.log("template")
    assert note in edge.ask("/", port="inside").text


def test_a_service_own_name_is_its_alone(edge: Edge, instance: Make) -> None:
    edge.register("z-mine", instance("mine"))
    edge.register("a-thief", instance("thief"), tags=["public", "host=z-mine.apollo.test", "path=/login"])
    answers(edge, "a-thief.apollo.test", "thief /")
    answers(edge, "z-mine.apollo.test", "mine /login", "/login")
    assert "warning a-thief wants z-mine.apollo.test which is the name of z-mine" in edge.log("template")


INJECTIONS = (
    'host=a.example.com"\nbackend evil\n    server x 127.0.0.1:1',
    "host=a.example.com evil",
    "host={{ env PATH }}",
    "host=*",
    "host=a/b",
    "path=/x y",
    "path=/x\n#!route stolen.example.com/ injected",
    "path=/'\"`$(id)",
    "path=//x",
    "path=/",
    "path=x",
    "path=/ü",
    "host=" + 300 * "a",
    "#!route stolen.example.com/ injected",
    'public" }\n    bind :9999',
)


def test_nothing_but_plain_names_comes_out_of_a_tag(edge: Edge, instance: Make) -> None:
    edge.register("injected", instance("injected"), tags=["public", *INJECTIONS])
    answers(edge, "injected.apollo.test", "injected /")
    mine = {key: service for key, service in edge.routes.items() if service == "injected"}
    assert mine == {"injected.apollo.test/": "injected"}
    block = edge.services.partition("backend service:injected\n")[2].partition("#!route")[0].partition("backend")[0]
    assert [line.split()[0] for line in block.splitlines() if line.strip() and line != "#!end"] == ["description", "server"]
    assert edge.ask("/", "stolen.example.com").status == 404


NO_CONTAINER, STRANGE = "has an instance whose address is no container's", "has an instance with an odd id or port"


@dataclass(frozen=True)
class Odd:
    """A registration that no request may go to. warning: what the log has of it, where its name may stand there."""

    name: str
    address: str = CONTAINER
    port: int = 80
    key: str = "apollo:1:80"
    warning: str = ""


@pytest.mark.parametrize(
    "odd",
    [
        Odd("bad\nbackend x"),
        Odd("Bad_Name"),
        Odd("odd-words", address=f"{CONTAINER} backup", warning=NO_CONTAINER),
        Odd("odd-octet", address="999.2.1.7", warning=NO_CONTAINER),
        Odd("odd-name", address="web.example.com", warning=NO_CONTAINER),
        # HAProxy refuses a configuration with the first, and reads the second as 127.2.1.8.
        Odd("odd-dot", address=f"{CONTAINER}.", warning=NO_CONTAINER),
        Odd("odd-octal", address="127.2.1.010", warning=NO_CONTAINER),
        Odd("odd-zero", address="127.2.01.7", warning=NO_CONTAINER),
        Odd("odd-three", address="127.2.263", warning=NO_CONTAINER),
        Odd("odd-six", address="::1", warning=NO_CONTAINER),
        # Ways through the edge to itself, its metadata, hosts and the world.
        Odd("odd-loopback", address="127.0.0.1", warning=NO_CONTAINER),
        # Consul itself refuses 0.0.0.0 as it is usually written.
        Odd("odd-any", address="00.0.0.0", warning=NO_CONTAINER),
        Odd("odd-metadata", address="169.254.169.254", warning=NO_CONTAINER),
        Odd("odd-bridge", address="127.2.0.240", warning=NO_CONTAINER),
        Odd("odd-beyond", address="127.2.240.0", warning=NO_CONTAINER),
        Odd("odd-overlay", address="127.3.1.7", warning=NO_CONTAINER),
        Odd("odd-control", address=CONTROL, warning=NO_CONTAINER),
        Odd("marathon", address="127.0.0.33", warning=NO_CONTAINER),
        Odd("odd-id", key="apollo:1 80\n    server y", warning=STRANGE),
        Odd("odd-port", port=99999, warning=STRANGE),
    ],
    ids=lambda odd: odd.name.replace("\n", " "),
)
def test_an_odd_name_address_id_or_port_harms_nobody_else_and_is_named(edge: Edge, instance: Make, odd: Odd) -> None:
    service = {"ID": odd.key, "Service": odd.name, "Tags": ["public"], "Address": odd.address, "Port": odd.port}
    edge.consul("catalog/register", "PUT", {"Node": "odd", "Address": CONTAINER, "Service": service})
    beside = "beside-" + re.sub("[^a-z]", "-", odd.name.lower())
    edge.register(beside, instance(beside))
    answers(edge, f"{beside}.apollo.test", f"{beside} /")
    assert "server odd:" not in edge.services
    if odd.warning:
        assert f"warning {odd.name} {odd.warning}" in edge.log("template")
        assert odd.warning in edge.ask("/", port="inside").text
    edge.consul("catalog/deregister", "PUT", {"Node": "odd"})


def test_addresses_at_both_ends_of_what_containers_have_are_served(edge: Edge, instance: Make) -> None:
    for name, address in (("lowest", "127.2.1.0"), ("highest", "127.2.239.255")):
        edge.register(name, instance(name, address))
        answers(edge, f"{name}.apollo.test", f"{name} /")


def test_a_published_marathon_is_served_where_control_nodes_are(edge: Edge, instance: Make) -> None:
    edge.register("marathon", instance("marathon", CONTROL))
    answers(edge, "marathon.apollo.test", "marathon /")


def test_two_instances_that_would_have_the_same_name_are_one(edge: Edge, instance: Make) -> None:
    twin = instance("twin")
    for node, key in (("x:y", "z"), ("x", "y:z")):
        service = {"ID": key, "Service": "twin", "Tags": ["public"], "Address": twin.address, "Port": twin.port}
        edge.consul("catalog/register", "PUT", {"Node": node, "Address": CONTAINER, "Service": service})
    answers(edge, "twin.apollo.test", "twin /")
    edge.register("after-twin", instance("after-twin"))
    answers(edge, "after-twin.apollo.test", "after-twin /")
    assert edge.services.count(" x:y:z ") == 1


def test_what_a_client_says_about_itself_is_not_believed(edge: Edge, instance: Make) -> None:
    seen = instance("seen")
    edge.register("seen", seen)
    answers(edge, "seen.apollo.test", "seen /")
    lies = {"X-Forwarded-For": "9.9.9.9", "X-Forwarded-Proto": "https", "Forwarded": "for=9.9.9.9", "X-Real-IP": "9.9.9.9"}
    edge.ask("/headers", "seen.apollo.test", **lies)
    got = seen.seen[-1]
    assert (got["x-forwarded-for"], got["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert got["x-forwarded-host"] == "seen.apollo.test"
    assert "forwarded" not in got and "x-real-ip" not in got


def test_behind_a_load_balancer_the_client_is_whom_it_names(edge: Edge, instance: Make) -> None:
    seen = instance("balanced")
    edge.register("balanced", seen)
    answers(edge, "balanced.apollo.test", "balanced /")
    assert edge.ask_as_balancer("127.0.0.1", "balanced.apollo.test").endswith(b"balanced /")
    assert seen.seen[-1]["x-forwarded-for"] == "203.0.113.9"
    # Who does not say it is not served there.
    assert edge.ask("/", "balanced.apollo.test", port="balancer").status != 200


def test_a_container_cannot_say_that_it_speaks_for_a_client(edge: Edge, instance: Make) -> None:
    seen = instance("forged")
    edge.register("forged", seen)
    answers(edge, "forged.apollo.test", "forged /")
    known = len(seen.seen)
    # From a container, from a slave's own bridge, and from outside of overlay and VPC.
    for source in (CONTAINER, "127.2.0.1", "127.9.9.9"):
        assert edge.ask_as_balancer(source, "forged.apollo.test") == b"", source
    assert len(seen.seen) == known


def test_stats_and_metrics_are_on_the_inside_port_alone(edge: Edge) -> None:
    assert "haproxy_frontend_http_requests_total" in edge.ask("/metrics", port="inside").text
    assert "Apollo edge edge-1" in edge.ask("/", port="inside").text
    assert edge.ask("/metrics").status == 404


def test_a_get_that_takes_too_long_is_asked_of_one_instance_alone(make: Callable[..., Edge], instance: Make) -> None:
    edge = make()
    config = edge.folder / "haproxy.cfg"
    assert "timeout server 60s" in config.read_text()
    config.write_text(config.read_text().replace("timeout server 60s", "timeout server 500ms"))
    for name in ("consul", "haproxy", "template"):
        edge.start(name)
    slow = [instance(f"slow-{number}", seconds=2) for number in range(3)]
    for number, one in enumerate(slow):
        edge.register("slow", one, id=f"apollo:slow:{number}")
    until(lambda: edge.services.count("server slave-1:apollo:slow:") == 3, "all three are known")
    until(lambda: edge.ask("/", "slow.apollo.test").status == 504, "504")
    known = sum(len(one.seen) for one in slow)
    assert edge.ask("/", "slow.apollo.test").status == 504
    assert sum(len(one.seen) for one in slow) == known + 1


def test_an_instance_that_dies_costs_a_get_nothing(edge: Edge, instance: Make) -> None:
    dying, staying = instance("dying"), instance("staying")
    edge.register("pair", dying, id="apollo:pair:1")
    edge.register("pair", staying, id="apollo:pair:2")
    until(lambda: len({edge.ask("/", "pair.apollo.test").text for _ in range(4)}) == 2, "both answer")
    dying.close()
    # Consul has no check here, and still lists it.
    assert [edge.ask("/", "pair.apollo.test").status for _ in range(10)] == [200] * 10


def test_a_refused_or_unfinished_configuration_leaves_the_running_one(edge: Edge, instance: Make) -> None:
    edge.register("steady", instance("steady"))
    answers(edge, "steady.apollo.test", "steady /")
    good, reloads = edge.services, edge.reloads
    for text in (
        f"{good}\nnonsense\n#!end\n",
        good.removesuffix("#!end\n"),
        good.replace("#!end", "backend x\n server y nowhere\n#!end"),
    ):
        (edge.folder / "state/services.cfg").write_text(text)
        argv = [str(edge.folder / "bin/edge-apply")]
        assert subprocess.run(argv, env=edge.environment, capture_output=True, check=False).returncode != 0
        assert (edge.services, edge.reloads) == (good, reloads)
        assert edge.ask("/", "steady.apollo.test").text == "steady /"
    (edge.folder / "state/services.cfg").write_text(good)


def test_a_template_in_error_leaves_the_running_configuration(make: Callable[..., Edge], instance: Make) -> None:
    edge = make()
    for name in ("consul", "haproxy", "template"):
        edge.start(name)
    edge.register("kept", instance("kept"))
    answers(edge, "kept.apollo.test", "kept /")
    edge.stop("template")
    template = edge.folder / "services.ctmpl"
    for error in ('{{ range service "kept" }', '{{ executeTemplate "nothing" }}', "{{ parseInt (env `NODE_NAME`) }}"):
        template.write_text(template.read_text() + error)
        edge.start("template")
        assert edge.processes.pop("template").wait(30) != 0
        assert edge.ask("/", "kept.apollo.test").text == "kept /"
        template.write_text(template.read_text().removesuffix(error))


def test_routes_serve_on_while_consul_is_away_and_an_emptied_catalog_is_believed_only_from_consul(
    make: Callable[..., Edge], instance: Make
) -> None:
    edge = make()
    for name in ("consul", "haproxy", "template"):
        edge.start(name)
    edge.register("lasting", instance("lasting"))
    answers(edge, "lasting.apollo.test", "lasting /")
    edge.stop("consul")
    assert edge.ask("/", "lasting.apollo.test").text == "lasting /"
    # A restart of the template, and of HAProxy, without Consul: the last configuration is on disk.
    for name in ("template", "haproxy"):
        edge.stop(name)
        edge.start(name)
    assert edge.ask("/", "lasting.apollo.test").text == "lasting /"
    assert edge.ask(HEALTH).status == 200


def test_tls_with_http_2_and_the_way_there_from_http(make: Callable[..., Edge], instance: Make, tmp_path: Path) -> None:
    edge = make(EDGE_TLS="1", EDGE_TLS_REDIRECT="1")
    (edge.folder / "certificate").write_text(edge_certificate(tmp_path, "apollo.test"))
    for name in ("consul", "haproxy", "template"):
        edge.start(name)
    seen = instance("safe")
    edge.register("safe", seen)
    # Redirected everything is, but what a load balancer asks.
    until(lambda: edge.ask(HEALTH).status == 200, "the catalog has been read")
    answer = edge.ask("/x?y", "safe.apollo.test")
    assert (answer.status, answer.headers["location"]) == (308, "https://safe.apollo.test/x?y")

    def curl(*options: str) -> str:
        url = f"https://safe.apollo.test:{edge.port['tls']}/x"
        argv = ["curl", "-s", "--noproxy", "*", "-m", "5", "--cacert", str(tmp_path / "edge.pem"), *options]
        argv += ["--resolve", f"safe.apollo.test:{edge.port['tls']}:127.0.0.1", "-w", " %{http_version}", url]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    until(lambda: curl() == "safe /x 2", "HTTP/2 over TLS")
    assert curl("--http1.1") == "safe /x 1.1"
    assert seen.seen[-1]["x-forwarded-proto"] == "https"
    assert curl("--tls-max", "1.1").strip() == "0"
    tls = ssl.create_default_context(cafile=tmp_path / "edge.pem")
    balancer = edge.as_balancer("127.0.0.1", "balancer_tls")
    with tls.wrap_socket(balancer, server_hostname="safe.apollo.test") as connection:
        assert connection.version() == "TLSv1.3"
    with pytest.raises(OSError), edge.as_balancer(CONTAINER, "balancer_tls") as refused:
        tls.wrap_socket(refused, server_hostname="safe.apollo.test")
