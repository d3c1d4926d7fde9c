"""The edge: what of Consul's catalog becomes a route, with the real Consul, consul-template and HAProxy on the loopback."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from host.apollo.edge import apply
from localcloud.apollo.boot import edge_certificate
from localcloud.errors import LocalCloudError
from localcloud.machines.programs import host_program
from tests.host.edge import CONTAINER, CONTROL, PRIVATE, SLAVE, Edge, Instance, Tunnel
from tests.host.support import left_out, needs, until

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
    edge.start("consul", "haproxy")
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


@pytest.fixture
def tunnel() -> Generator[Tunnel]:
    tunnel = Tunnel()
    yield tunnel
    tunnel.close()


def answers(edge: Edge, host: str, text: str, path: str = "/") -> None:
    until(lambda: edge.ask(path, host).text == text, f"{host}{path} answers {text!r}; services:\n{edge.services}")


Make = Callable[..., Instance]


def published(edge: Edge, one: Instance, tags: Sequence[str] = ("public",)) -> Instance:
    """Registers an instance as a service of its own name, and waits until it answers there."""
    edge.register(one.name, one, tags)
    answers(edge, f"{one.name}.apollo.test", f"{one.name} /")
    return one


def chatting(edge: Edge, tunnel: Tunnel) -> None:
    """Registers the service `chat` of WebSockets, and waits until the edge knows it."""
    edge.register("chat", tunnel)
    until(lambda: edge.ask("/", "chat.apollo.test").status == 502, "the WebSocket's service is known")


def test_a_published_service_answers_at_its_name_and_an_unpublished_one_does_not(edge: Edge, instance: Make) -> None:
    hello = instance("hello")
    edge.register("quiet", hello, tags=[])
    published(edge, hello)
    assert edge.ask("/x?y=1", "HELLO.Apollo.Test.:8080").text == "hello /x?y=1"
    for name in ("quiet.apollo.test", "nothing.apollo.test", "apollo.test", "hello", "hello.apollo.test.evil.example", ""):
        answer = edge.ask("/", name)
        assert (answer.status, answer.text) == (404, NOBODY), name
        assert answer.headers["content-type"] == "text/plain"


def test_of_a_published_service_only_the_instances_that_ask_for_it_get_requests_from_outside(
    edge: Edge, instance: Make
) -> None:
    inside, outside, sick = instance("inside"), instance("outside"), instance("sick")
    edge.register("mixed", inside, tags=["v1"])
    edge.register("mixed", sick, passing=False)
    edge.register("mixed", outside)
    answers(edge, "mixed.apollo.test", "outside /")
    assert [one.port for one in (inside, outside, sick) if f":{one.port} " in edge.services] == [outside.port]
    assert {edge.ask("/", "mixed.apollo.test").text for _ in range(6)} == {"outside /"}
    assert not inside.seen and not sick.seen


def test_what_the_settings_list_is_published_without_the_tag(edge: Edge, instance: Make) -> None:
    published(edge, instance("listed"), tags=[])


def test_the_default_service_answers_for_names_that_nobody_has_and_no_others(edge: Edge, instance: Make) -> None:
    front = instance("front")
    edge.register("front", front, tags=[], id="apollo:front:1")
    edge.register("taken", front, passing=False)
    answers(edge, "whatever.example.com", "front /")
    until(lambda: edge.ask("/", "taken.apollo.test").status == 503, "a service without instances does not fall to the default")
    edge.deregister("apollo:front:1")
    until(lambda: edge.ask("/", "whatever.example.com").status == 404, "the default is gone")


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
    "host=Ü.example.com",
    "host=" + 300 * "a",
    "#!route stolen.example.com/ injected",
    'public" }\n    bind :9999',
)


def test_nothing_but_plain_names_comes_out_of_a_tag(edge: Edge, instance: Make) -> None:
    published(edge, instance("injected"), ["public", *INJECTIONS])
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
    published(edge, instance("beside-" + re.sub("[^a-z]", "-", odd.name.lower())))
    assert "server odd:" not in edge.services
    if odd.warning:
        assert f"warning {odd.name} {odd.warning}" in edge.log("template")
        assert odd.warning in edge.ask("/", port="inside").text
    edge.consul("catalog/deregister", "PUT", {"Node": "odd"})


def test_addresses_at_both_ends_of_what_containers_have_are_served(edge: Edge, instance: Make) -> None:
    for name, address in (("lowest", "127.2.1.0"), ("highest", "127.2.239.255")):
        published(edge, instance(name, address))


def test_a_published_marathon_is_served_where_control_nodes_are(edge: Edge, instance: Make) -> None:
    published(edge, instance("marathon", CONTROL))


def test_two_instances_that_would_have_the_same_name_are_one(edge: Edge, instance: Make) -> None:
    twin = instance("twin")
    for node, key in (("x:y", "z"), ("x", "y:z")):
        service = {"ID": key, "Service": "twin", "Tags": ["public"], "Address": twin.address, "Port": twin.port}
        edge.consul("catalog/register", "PUT", {"Node": node, "Address": CONTAINER, "Service": service})
    answers(edge, "twin.apollo.test", "twin /")
    published(edge, instance("after-twin"))
    assert edge.services.count(" x:y:z ") == 1


# What applications take for the proxy's word about the client, the request or the way here: after X-Forwarded-For the names of
# RFC 7239, httpoxy (CVE-2016-5385), Symfony and IIS (CVE-2018-14773), Rails, Rack, Spring, Django, Go's chi and CDNs.
VOUCHED = """
X-Forwarded-For X-Forwarded-Proto X-Forwarded-Host X-Forwarded-Port X-Forwarded-Prefix X-Forwarded-Server
X-Forwarded-Scheme X-Forwarded-SSL X-Forwarded-User X-Forwarded-By X-Forwarded Forwarded-For Forwarded X-Original-URL
X-Original-URI X-Original-Host X-Original-Method X-Rewrite-URL X-Real-IP X-Client-IP Client-IP True-Client-IP
X-Cluster-Client-IP CF-Connecting-IP Fastly-Client-IP X-Remote-IP X-Remote-Addr X-ProxyUser-IP X-Remote-User
Remote-User Front-End-Https X-Scheme X-URL-Scheme Proxy
"""


def test_what_a_client_says_about_itself_is_not_believed_in_any_spelling(edge: Edge, instance: Make) -> None:
    seen = published(edge, instance("seen"))
    spellings = (str, str.upper, lambda name: name.replace("-", "_"), lambda name: name.replace("-", "."))
    for spell in spellings:
        headers = {spell(name): "9.9.9.9" for name in VOUCHED.split()}
        own = {"X-Client-Version": "1", "X-Original-Filename": "a", "Authorization": "Basic YTpi", "X_Custom": "1"}
        edge.ask("/headers", "seen.apollo.test", **headers, **own, Connection="close, X-Forwarded-For, Authorization")
        got = seen.seen[-1]
        assert (got.pop("x-forwarded-for"), got.pop("x-forwarded-proto")) == ("127.0.0.1", "http")
        assert got.pop("x-forwarded-host") == "seen.apollo.test"
        assert "9.9.9.9" not in got.values(), got
        # What is the application's own comes through, and none of ours is taken away on the client's order.
        assert {name: got[name.lower()] for name in own} == own
        assert "connection" not in got


KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"


def test_no_upgrade_but_a_websocket_opens_a_tunnel(edge: Edge, tunnel: Tunnel) -> None:
    edge.register("tunnel", tunnel)
    until(lambda: edge.ask("/", "tunnel.apollo.test").status == 502, "an upgrade that was not asked for is no answer")
    head = b"GET / HTTP/1.1\r\nHost: tunnel.apollo.test\r\n"
    for wish in (b"h2c", b"TLS/1.0", b"h2c\r\nUpgrade: TLS/1.0"):
        request = head + b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: " + wish + b"\r\n\r\n"
        with edge.raw(request) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 502 ")
        assert not re.search("upgrade|http2", tunnel.seen[-1], re.IGNORECASE), tunnel.seen[-1]
    known = len(tunnel.seen)
    with edge.raw(b"CONNECT tunnel.apollo.test:80 HTTP/1.1\r\nHost: tunnel.apollo.test:80\r\n\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 405 ")
    assert len(tunnel.seen) == known
    for wish in (b"websocket", b"WebSocket, h2c", b"h2c\r\nUpgrade: websocket"):
        with edge.raw(head + b"Connection: keep-alive, Upgrade\r\nUpgrade: " + wish + b"\r\n" + KEY) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 101 ")
            connection.sendall(b"hello\n")
            assert connection.recv(1000) == b"hello\n"
        assert re.findall("upgrade: .*", tunnel.seen[-1], re.IGNORECASE) == ["upgrade: websocket"]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113, section 4.1."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header field as RFC 7541, section 6.2.2, writes it without index and Huffman code."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


@pytest.mark.parametrize(("protocol", "opens"), [("websocket", True), ("connect-tcp", False)])
def test_over_http_2_too_a_websocket_alone_opens_a_tunnel(edge: Edge, tunnel: Tunnel, protocol: str, opens: bool) -> None:
    """RFC 8441, as browsers do it."""
    host = f"h2-{protocol}.apollo.test"
    edge.register(f"h2-{protocol}", tunnel)
    until(lambda: edge.ask("/", host).status == 502, "the route is there")
    known = len(tunnel.seen)
    fields = {":method": "CONNECT", ":protocol": protocol, ":scheme": "http", ":path": "/", ":authority": host}
    headers = b"".join(literal(*field) for field in (*fields.items(), ("x_forwarded_for", "9.9.9.9")))
    begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
    with edge.raw(begin + frame(1, 4, 1, headers), 1) as connection:
        answer = b""
        with contextlib.suppress(TimeoutError):
            while b"hello\n" not in answer and (data := connection.recv(10000)):
                answer += data
                if b"sec-websocket-accept" in data:
                    connection.sendall(frame(0, 0, 1, b"hello\n"))
    assert (b"hello\n" in answer) == opens, answer
    if opens:
        assert "9.9.9.9" not in tunnel.seen[-1]
    else:
        assert not any("upgrade" in request.lower() for request in tunnel.seen[known:])


def test_an_honest_wish_for_http_2_in_plain_text_is_answered_by_http_1(edge: Edge, instance: Make) -> None:
    published(edge, instance("plain"))
    wish = {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABk"}
    assert edge.ask("/", "plain.apollo.test", **wish).text == "plain /"


def test_headers_of_14_kib_fit_and_of_15_do_not_and_a_body_has_no_limit(edge: Edge, instance: Make) -> None:
    published(edge, instance("sizes"))
    assert edge.ask("/", "sizes.apollo.test", Cookie=14 * 1024 * "x").text == "sizes /"
    assert edge.ask("/", "sizes.apollo.test", Cookie=15 * 1024 * "x").status == 400
    assert edge.post("/", "sizes.apollo.test", bytes(20 << 20)).text == "sizes /"


def test_a_client_that_sends_headers_or_body_slowly_keeps_no_instance_busy(make: Callable[..., Edge], instance: Make) -> None:
    edge = make()
    config = edge.folder / "haproxy.cfg"
    text = config.read_text()
    assert "timeout http-request 10s" in text and "wait-for-body time 10s" in text
    config.write_text(text.replace("http-request 10s", "http-request 500ms").replace("body time 10s", "body time 500ms"))
    edge.start()
    seen = published(edge, instance("slow"))
    known = len(seen.seen)
    for part in (b"GET / HTTP/1.1\r\nHost: slow", b"POST / HTTP/1.1\r\nHost: slow.apollo.test\r\nContent-Length: 9\r\n\r\nabc"):
        with edge.raw(part) as connection:
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 408 "), part
    assert len(seen.seen) == known


def test_a_client_that_asks_too_much_gets_429_and_no_one_else_does(make: Callable[..., Edge], instance: Make) -> None:
    edge = make(EDGE_CLIENT_REQUESTS="40", EDGE_CLIENT_CONNECTIONS="5")
    edge.start()
    edge.register("busy", instance("busy"))
    as_balancer = edge.ask_as_balancer
    until(lambda: as_balancer("127.0.0.1", "busy.apollo.test", "192.0.2.1").endswith(b"busy /"), "it serves")
    # By the client that the PROXY protocol names, and not by the balancer that connects for all of them.
    answered = [as_balancer("127.0.0.1", "busy.apollo.test", "192.0.2.2") for _ in range(45)]
    assert [b"200 OK" in answer for answer in answered] == [True] * 40 + [False] * 5
    assert answered[-1].startswith(b"HTTP/1.1 429 ") and b"retry-after: 10" in answered[-1].lower()
    assert as_balancer("127.0.0.1", "busy.apollo.test", "192.0.2.3").endswith(b"busy /")
    assert edge.ask(HEALTH).status == 200
    until(lambda: edge.ask("/", "busy.apollo.test").status == 429, "429 for a client that asks directly too")
    # The health check of a load balancer is never refused.
    assert edge.ask(HEALTH).status == 200
    # Connections: those above are closed at once, and the client has its own again when it ends one.
    held = [as_client(edge, "192.0.2.4") for _ in range(5)]
    assert all(alive(connection) for connection in held)
    assert not alive(as_client(edge, "192.0.2.4"))
    assert alive(as_client(edge, "192.0.2.5"))
    held.pop().close()
    until(lambda: alive(as_client(edge, "192.0.2.4")), "there is room again")
    for connection in held:
        connection.close()


def as_client(edge: Edge, client: str) -> socket.socket:
    return edge.as_balancer("127.0.0.1", client=client)


def alive(connection: socket.socket) -> bool:
    """Whether this connection takes a request."""
    try:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: busy.apollo.test\r\n\r\n")
        return connection.recv(1000) != b""
    except ConnectionError:
        return False


def test_behind_a_load_balancer_the_client_is_whom_it_names(edge: Edge, instance: Make) -> None:
    seen = published(edge, instance("balanced"))
    assert edge.ask_as_balancer("127.0.0.1", "balanced.apollo.test").endswith(b"balanced /")
    assert seen.seen[-1]["x-forwarded-for"] == "203.0.113.9"
    # Who does not say it is not served there.
    assert edge.ask("/", "balanced.apollo.test", port="balancer").status != 200


def test_neither_container_nor_slave_can_say_that_it_speaks_for_a_client(edge: Edge, instance: Make) -> None:
    seen = published(edge, instance("forged"))
    known = len(seen.seen)
    # From a container, from a slave's own bridge or interface, and from outside of overlay and VPC.
    for source in (CONTAINER, "127.2.0.1", SLAVE, "127.9.9.9"):
        assert edge.ask_as_balancer(source, "forged.apollo.test") == b"", source
    assert len(seen.seen) == known


def test_a_port_that_is_no_tcp_is_no_server_and_by_itself_no_route(edge: Edge, instance: Make) -> None:
    both = instance("both")
    edge.register("both", both, id=f"apollo:0123456789ab:{both.port}")
    edge.register("both", both, ["public", "udp"], id=f"apollo:0123456789ab:{both.port}:udp")
    edge.register("syslog", both, ["public", "udp", "host=syslog.example.com"], id="apollo:0123456789ac:514:udp")
    edge.register("listed", both, ["udp"], id="apollo:0123456789ad:514:udp")
    answers(edge, "both.apollo.test", "both /")
    assert edge.services.count(f"{both.address}:{both.port}") == 1
    assert "syslog" not in edge.services and "0123456789ad" not in edge.services
    assert edge.ask("/", "syslog.example.com").text != "both /"


def test_a_host_has_a_route_in_whichever_case_its_tag_has_it(edge: Edge, instance: Make) -> None:
    edge.register("cased", instance("cased"), ["public", "host=WWW.Cased.Example.COM", "Host=cased.example.com", "path=/Case"])
    answers(edge, "www.cased.example.com", "cased /Case", "/Case")
    assert edge.ask("/Case", "CASED.example.com").text == "cased /Case"
    assert edge.ask("/case", "cased.example.com").text != "cased /case"


def test_a_tag_that_is_ignored_is_named_in_the_log(edge: Edge, instance: Make) -> None:
    published(edge, instance("named"), ["public", "host=*.example.com", "path=x"])
    for tag in ("host=*.example.com", "path=x"):
        assert f"warning named has a tag that names no host or path: {tag}" in edge.log("template")


def test_of_very_many_wishes_the_first_twenty_count(edge: Edge, instance: Make) -> None:
    published(edge, instance("greedy"), ["public", *(f"host=h{n:03}.example.com" for n in range(600))])
    assert sorted(key for key, service in edge.routes.items() if service == "greedy") == [
        "greedy.apollo.test/",
        *(f"h{n:03}.example.com/" for n in range(20)),
    ]
    assert "warning greedy has more than 20 host and path tags" in edge.log("template")


def test_stats_and_metrics_are_on_the_inside_port_alone(edge: Edge) -> None:
    assert "haproxy_frontend_http_requests_total" in edge.ask("/metrics", port="inside").text
    assert "Apollo edge edge-1" in edge.ask("/", port="inside").text
    assert edge.ask("/metrics").status == 404


def test_on_the_hosts_vpc_address_there_are_the_metrics_and_no_statistics(edge: Edge) -> None:
    def status(path: str) -> int:
        connection = http.client.HTTPConnection(PRIVATE, edge.port["inside"], timeout=10)
        connection.request("GET", path)
        return connection.getresponse().status

    assert [status(path) for path in ("/metrics", "/", "/;csv", "/metrics/x")] == [200, 403, 403, 403]


def websocket(edge: Edge, service: str) -> socket.socket:
    """An open WebSocket to a Tunnel."""
    request = f"GET / HTTP/1.1\r\nHost: {service}.apollo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n".encode()
    connection = edge.raw(request + KEY)
    assert connection.recv(1000).startswith(b"HTTP/1.1 101 ")
    return connection


def echoes(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"still here\n")
        return connection.recv(1000) == b"still here\n"
    except ConnectionError:
        return False


def test_what_comes_and_goes_by_itself_takes_no_reload_and_ends_no_websocket(
    edge: Edge, instance: Make, tunnel: Tunnel
) -> None:
    chatting(edge, tunnel)
    published(edge, instance("flaps"))
    reloads, connection = edge.reloads, websocket(edge, "chat")
    one, two = instance("one"), instance("two")
    for round_ in range(5):
        # A check that flaps, the WebSocket's own too.
        edge.register("flaps", one, id="flapping", passing=False)
        edge.register("chat", tunnel, passing=False)
        until(lambda: edge.ask("/", "chat.apollo.test").status == 503, "it is out")
        edge.register("flaps", one, id="flapping")
        edge.register("chat", tunnel)
        until(lambda: edge.ask("/", "chat.apollo.test").status == 502, "it is in again")
        # Instances that come and go.
        edge.register("flaps", two, id=f"more-{round_}")
        until(lambda: "two /" in {edge.ask("/", "flaps.apollo.test").text for _ in range(3)}, "the new one answers")
        edge.deregister(f"more-{round_}")
        until(lambda: "two /" not in {edge.ask("/", "flaps.apollo.test").text for _ in range(3)}, "it is gone")
    # A name that goes and comes back, as with every restart of a single container, and one that gets other tags.
    for key in ("flapping", f"apollo:flaps:{edge.port_of('flaps')}"):
        edge.deregister(key)
    until(lambda: edge.ask("/", "flaps.apollo.test").status == 404, "the name is gone")
    edge.register("flaps", one, ["public", "host=flaps.example.com"])
    answers(edge, "flaps.example.com", "one /")
    assert edge.ask("/", "flaps.apollo.test").text == "one /"
    assert echoes(connection)
    assert edge.reloads == reloads
    connection.close()
    # A restart reads the same.
    edge.stop("haproxy")
    edge.start("haproxy")
    answers(edge, "flaps.example.com", "one /")


def test_an_instance_that_keeps_its_id_and_moves_is_asked_at_its_new_address_alone(edge: Edge, instance: Make) -> None:
    old, new = instance("old"), instance("new", "127.2.1.8")
    edge.register("moves", old, id="apollo:moving:80")
    answers(edge, "moves.apollo.test", "old /")
    reloads = edge.reloads
    # HAProxy keeps connections to it.
    assert {edge.ask("/", "moves.apollo.test").text for _ in range(5)} == {"old /"}
    edge.register("moves", new, id="apollo:moving:80")
    answers(edge, "moves.apollo.test", "new /")
    known = len(old.seen)
    assert {edge.ask("/", "moves.apollo.test").text for _ in range(20)} == {"new /"}
    assert (len(old.seen), edge.reloads) == (known, reloads)


# Seconds: no reload of a busy machine takes so long that it is asked for again.
ONCE = {"RELOAD": 300, "SIGNAL": 60}


def lived(edge: Edge, kind: str) -> list[int]:
    """How many reloads each of HAProxy's processes of a kind has lived through: the master all that there were."""
    return [int(line.split()[2]) for line in edge.master("show proc").splitlines() if f" {kind} " in line]


def workers(edge: Edge) -> list[int]:
    """How many reloads each worker has lived through, of which the newest has 0."""
    return lived(edge, "worker")


def test_new_names_and_slow_clients_keep_a_handful_of_workers(
    make: Callable[..., Edge], instance: Make, tunnel: Tunnel
) -> None:
    edge = make()
    assert (apply.WORKERS, apply.APART) == (2, 30)
    edge.tune(APART=2)
    edge.start()
    chatting(edge, tunnel)
    one, held = instance("one"), list[tuple[socket.socket, int]]()
    for number in range(12):
        # A client that will not go, in the worker of this moment, and a name that HAProxy does not know.
        (begun,) = lived(edge, "master")
        held.append((websocket(edge, "chat"), begun))
        edge.register(f"new-{number}", one)
        answers(edge, f"new-{number}.apollo.test", "one /")
        # The documents promise six reloads. On a busy machine one name may take two, as a late one is asked for again.
        alive = [echoes(connection) for connection, _ in held]
        (now,) = lived(edge, "master")
        assert all(lives for lives, (_, begun) in zip(alive, held, strict=True) if now - begun <= 6), number
        until(lambda: len(workers(edge)) <= 8, "old workers end")
    assert not echoes(held[0][0])
    for connection, _ in held:
        connection.close()
    until(lambda: workers(edge) == [0], "without clients no old worker stays")


def test_with_old_workers_a_new_name_waits_and_what_is_known_does_not(
    make: Callable[..., Edge], instance: Make, tunnel: Tunnel
) -> None:
    edge = make()
    edge.tune(APART=30, **ONCE)
    edge.start()
    one = instance("one")
    chatting(edge, tunnel)
    edge.register("known", one)
    answers(edge, "known.apollo.test", "one /")
    held = list[socket.socket]()
    for number in range(2):
        held.append(websocket(edge, "chat"))
        edge.register(f"new-{number}", one)
        answers(edge, f"new-{number}.apollo.test", "one /")
    until(lambda: sum(count > 0 for count in workers(edge)) == 2, "two old workers")
    reloads = edge.reloads
    edge.register("waits", one)
    edge.register("known", one, passing=False)
    until(lambda: edge.ask("/", "known.apollo.test").status == 503, "what is known changes at once")
    assert (edge.ask("/", "waits.apollo.test").status, edge.reloads) == (404, reloads)
    until(lambda: edge.ask("/", "waits.apollo.test").text == "one /", "the name that waited is served")
    assert edge.reloads == reloads + 1
    for connection in held:
        connection.close()


def test_a_reload_that_haproxy_misses_is_asked_for_again(make: Callable[..., Edge], instance: Make) -> None:
    """A signal that comes while the master loads is lost: seen as a service that does not answer until the next change."""
    edge = make()
    systemctl = edge.folder / "bin/systemctl"
    missed = edge.folder / "missed"
    systemctl.write_text(systemctl.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n[ -e {missed} ] || exec touch {missed}\n"))
    edge.start()
    published(edge, instance("missed"))
    assert missed.exists()


def test_servers_out_of_use_are_cleared_away_by_a_reload(make: Callable[..., Edge], instance: Make) -> None:
    edge = make()
    edge.tune(UNUSED=5, **ONCE)
    edge.start()
    one = instance("one")
    edge.register("many", one)
    answers(edge, "many.apollo.test", "one /")
    reloads = edge.reloads
    for number in range(8):
        edge.register("many", one, id=f"more-{number}")
        until(lambda number=number: f"more-{number} " in edge.services, "it is written")
        edge.deregister(f"more-{number}")
        until(lambda number=number: f"more-{number} " not in edge.services, "it is gone")
    until(lambda: edge.reloads == reloads + 1, "one reload")
    assert edge.ask("/", "many.apollo.test").text == "one /"


def test_a_get_that_takes_too_long_is_asked_of_one_instance_alone(make: Callable[..., Edge], instance: Make) -> None:
    edge = make()
    config = edge.folder / "haproxy.cfg"
    assert "timeout server 60s" in config.read_text()
    config.write_text(config.read_text().replace("timeout server 60s", "timeout server 500ms"))
    edge.start()
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
    published(edge, instance("steady"))
    good, reloads = edge.services, edge.reloads
    for text in (
        f"{good}\nnonsense\n#!end\n",
        good.removesuffix("#!end\n"),
        good.replace("#!end", "backend x\n server y nowhere\n#!end"),
    ):
        (edge.folder / "state/services.cfg").write_text(text)
        argv = [str(edge.folder / "bin/apollo"), "edge", "apply"]
        assert subprocess.run(argv, env=edge.environment, capture_output=True, check=False).returncode != 0
        assert (edge.services, edge.reloads) == (good, reloads)
        assert edge.ask("/", "steady.apollo.test").text == "steady /"
    (edge.folder / "state/services.cfg").write_text(good)


def test_a_template_in_error_leaves_the_running_configuration(make: Callable[..., Edge], instance: Make) -> None:
    edge = make()
    edge.start()
    published(edge, instance("kept"))
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
    edge.start()
    published(edge, instance("lasting"))
    edge.stop("consul")
    assert edge.ask("/", "lasting.apollo.test").text == "lasting /"
    # A restart of the template, and of HAProxy, without Consul: the last configuration is on disk.
    for name in ("template", "haproxy"):
        edge.stop(name)
        edge.start(name)
    assert edge.ask("/", "lasting.apollo.test").text == "lasting /"
    assert edge.ask(HEALTH).status == 200


def asked_by_curl(edge: Edge, folder: Path, scheme: str, port: str, path: str, *options: str) -> str:
    """folder: of the certificate that it trusts."""
    number = edge.port[port]
    argv = ["curl", "-s", "--noproxy", "*", "-m", "5", "--cacert", str(folder / "edge.pem"), *options]
    argv += ["--resolve", f"safe.apollo.test:{number}:127.0.0.1", f"{scheme}://safe.apollo.test:{number}{path}"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def test_tls_with_http_2_and_the_way_there_from_http(make: Callable[..., Edge], instance: Make, tmp_path: Path) -> None:
    edge = make(EDGE_TLS="1", EDGE_TLS_REDIRECT="1")
    (edge.folder / "certificate").write_text(edge_certificate(tmp_path, "apollo.test"))
    edge.start()
    seen = instance("safe")
    edge.register("safe", seen)
    # Redirected everything is, but what a load balancer asks.
    until(lambda: edge.ask(HEALTH).status == 200, "the catalog has been read")
    answer = edge.ask("/x?y", "safe.apollo.test")
    assert (answer.status, answer.headers["location"]) == (308, "https://safe.apollo.test/x?y")

    def curl(*options: str) -> str:
        return asked_by_curl(edge, tmp_path, "https", "tls", "/x", "-w", " %{http_version}", *options)

    until(lambda: curl() == "safe /x 2", "HTTP/2 over TLS")
    assert curl("--http1.1") == "safe /x 1.1"
    assert seen.seen[-1]["x-forwarded-proto"] == "https"
    assert curl("--tls-max", "1.1").strip() == "0"
    assert "strict-transport-security" not in curl("-D-")
    tls = ssl.create_default_context(cafile=tmp_path / "edge.pem")
    balancer = edge.as_balancer("127.0.0.1", "balancer_tls")
    with tls.wrap_socket(balancer, server_hostname="safe.apollo.test") as connection:
        assert connection.version() == "TLSv1.3"
    with pytest.raises(OSError), edge.as_balancer(CONTAINER, "balancer_tls") as refused:
        tls.wrap_socket(refused, server_hostname="safe.apollo.test")


# Mozilla's intermediate configuration, guidelines 6.0, for a key on an elliptic curve as the one here.
INTERMEDIATE = {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"}


def test_tls_takes_mozillas_intermediate_ciphers_alone_and_says_hsts_as_set(make: Callable[..., Edge], tmp_path: Path) -> None:
    edge = make(EDGE_TLS="1", EDGE_TLS_REDIRECT="1", EDGE_TLS_HSTS="63072000")
    (edge.folder / "certificate").write_text(edge_certificate(tmp_path, "apollo.test"))
    edge.start("haproxy")

    def offered(cipher: str) -> bool:
        client = ssl.create_default_context(cafile=tmp_path / "edge.pem")
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        # Level 0, as the client of these tests is to offer what is out of date too.
        client.set_ciphers(f"{cipher}:@SECLEVEL=0")
        try:
            with socket.create_connection(("127.0.0.1", edge.port["tls"]), 5) as plain:
                client.wrap_socket(plain, server_hostname="safe.apollo.test").close()
        except ssl.SSLError:
            return False
        return True

    every = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    every.set_ciphers("ALL:@SECLEVEL=0")
    names = {str(cipher["name"]) for cipher in every.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
    assert names > INTERMEDIATE
    assert {name for name in names if offered(name)} == INTERMEDIATE

    def hsts(port: str, scheme: str) -> bool:
        headers = asked_by_curl(edge, tmp_path, scheme, port, "/", "-D-", "-o/dev/null")
        return "strict-transport-security: max-age=63072000" in headers

    # A browser heeds it in an answer by HTTPS alone (RFC 6797), and no other says it.
    assert (hsts("tls", "https"), hsts("web", "http")) == (True, False)
