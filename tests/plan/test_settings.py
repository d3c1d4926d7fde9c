"""Refusals: each names the key, the value and what would be valid, and all come at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPNetwork

from plan.addresses import OverlayPlan
from plan.aws import OWN_TAGS, architecture, check_aws_limits
from plan.parse import examine, refuse
from plan.parse import parse as parse_whole
from plan.problems import PlanError
from plan.secrets import CERTIFICATE
from plan.settings import SECRET_KEYS, Settings


def parse(raw: dict[str, Any], source: str = "configuration") -> Settings:
    return parse_whole({"region": "eu-west-1", **raw}, source)


def problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(PlanError) as caught:
        settings, found = examine({"region": "eu-west-1", **raw})
        refuse([*found, *check_aws_limits(settings)], "Pulumi.test.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"overlay": {"cidr": "10.0.0.0/16"}}, "overlay.cidr: 10.0.0.0/16 overlaps network.cidr 10.0.0.0/16; give a range outside it such as 10.2.0.0/16"),
        ({"overlay": {"cidr": "10.0.0.0/8"}}, "overlay.cidr: 10.0.0.0/8 overlaps network.cidr 10.0.0.0/16; give a range outside it such as 10.2.0.0/16"),
        ({"overlay": {"cidr": "172.16.0.0/12"}}, "overlay.cidr: 172.16.0.0/12 overlaps Docker's default bridge (172.17.0.0/16); give one such as 10.2.0.0/16"),
        ({"overlay": {"cidr": "169.254.0.0/16"}}, "overlay.cidr: 169.254.0.0/16 overlaps the link-local range (169.254.0.0/16); give a private range such as 10.2.0.0/16"),
        ({"overlay": {"cidr": "224.0.0.0/8"}}, "overlay.cidr: 224.0.0.0/8 overlaps the multicast range (224.0.0.0/4); give a private range such as 10.2.0.0/16"),
        ({"overlay": {"cidr": "8.8.0.0/16"}}, "overlay.cidr: 8.8.0.0/16 is not a private range; give one inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10"),
        ({"overlay": {"cidr": "10.2.0.7/16"}}, "overlay.cidr: 10.2.0.7/16 has host bits set; did you mean 10.2.0.0/16?"),
        ({"overlay": {"cidr": "ten"}}, "overlay.cidr: ten is not an IPv4 network; give one such as 10.2.0.0/16"),
        ({"overlay": {"hostPrefix": 16}}, "overlay.hostPrefix: 16 is not longer than the prefix of overlay.cidr 10.2.0.0/16; give 17 to 30, or a wider overlay.cidr"),
        ({"overlay": {"hostPrefix": 31}}, "overlay.hostPrefix: 31 is out of range; give at most 30"),
        ({"overlay": {"cidr": "10.2.0.0/29", "hostPrefix": 30}}, "overlay.cidr: 10.2.0.0/29 has no room for sixteen infrastructure addresses and a slave; give a /26 or wider such as 10.2.0.0/16"),
        ({"overlay": {"cidr": "10.2.0.0/31"}}, "overlay.cidr: 10.2.0.0/31 has no room for sixteen infrastructure addresses and a slave; give a /26 or wider such as 10.2.0.0/16"),
        ({"overlay": {"cidr": "10.2.0.0/24"}, "slaves": {"count": 1}}, "overlay.hostPrefix: 24 is not longer than the prefix of overlay.cidr 10.2.0.0/24; give 25, 26, 27, 29 or 30, or a wider overlay.cidr"),
        ({"overlay": {"cidr": "10.2.0.0/25"}, "slaves": {"count": 1}}, "overlay.hostPrefix: 24 is not longer than the prefix of overlay.cidr 10.2.0.0/25; give 26, 27 or 30, or a wider overlay.cidr"),
        ({"overlay": {"cidr": "10.2.0.0/26"}, "slaves": {"count": 1}}, "overlay.hostPrefix: 24 is not longer than the prefix of overlay.cidr 10.2.0.0/26; give 27, or a wider overlay.cidr"),
        ({"overlay": {"cidr": "10.2.0.0/24", "hostPrefix": 28}, "slaves": {"count": 1}}, "overlay.hostPrefix: 28 leaves no slot in overlay.cidr 10.2.0.0/24 beside sixteen infrastructure addresses; give 25, 26, 27, 29 or 30, or a wider overlay.cidr"),
        ({"overlay": {"switchFrom": "weave"}}, "overlay.switchFrom: weave is the new mesh too; give the old one, or leave it out when done"),
        ({"overlay": {"mesh": "flannel"}}, "overlay.mesh: flannel is not a choice; give 'weave', 'vxlan' or 'wireguard'"),
        ({"overlay": {"mtu": 9000}}, "overlay.mtu: 9000 does not fit the underlay's 9001 bytes less 85 for weave; give 576 to 8916, or leave it out"),
        ({"overlay": {"mesh": "vxlan"}, "slaves": {"count": 240}}, "slaves.count: 240 is more than this overlay holds; give 0 to 239 (239 slots), or create a new stack with a wider overlay.cidr"),
        ({"slaves": {"count": -1}}, "slaves.count: -1 is out of range; give 0 or more"),
        ({"slaves": {"count": "three"}}, "slaves.count: three is not a whole number; give one such as 3"),
        ({"slaves": {"count": True}}, "slaves.count: true is not a whole number; give one such as 3"),
        ({"slaves": {"count": "5"}}, "slaves.count: 5 is text, not a whole number; give it without quotes"),
        ({"slaves": {"count": 2.5}}, "slaves.count: 2.5 is not a whole number; give one such as 3"),
        ({"slaves": {"count": None}}, "slaves.count: null is not a whole number; give one such as 3"),
        ({"slaves": {"retired": [True]}}, "slaves.retired[0]: true is not a whole number; give one such as 3"),
        ({"slaves": {"retired": [1, "2"]}}, "slaves.retired[1]: 2 is text, not a whole number; give it without quotes"),
        ({"slaves": {"retired": 2}}, "slaves.retired: 2 is not a list; give one such as [2, 5]"),
        ({"slaves": {"generations": {"1": True}}}, "slaves.generations.1: true is not a whole number; give one such as 3"),
        ({"slaves": {"generations": {"one": 2}}}, "slaves.generations.one: one is not a whole number; give one such as 3"),
        ({"slaves": {"generations": {"01": 2}}}, "slaves.generations.01: 01 is not a whole number; give one such as 3"),
        ({"slaves": {"generations": [2]}}, "slaves.generations: [2] is not a set of keys; give key: value lines below it"),
        ({"slaves": {"instanceType": 3}}, "slaves.instanceType: 3 is not text; give text in quotes"),
        ({"slaves": {"instanceType": ""}}, 'slaves.instanceType: "" is malformed; give one such as t3.small'),
        ({"slaves": {"retired": [500]}}, "slaves.retired: 500 is not a slot of this overlay; give 1 to 239"),
        ({"slaves": {"retired": [2, 2]}}, "slaves.retired: 2 is listed twice; list each retired slot once"),
        ({"slaves": {"generations": {"1": 0}}}, "slaves.generations.1: 0 is out of range; give 1 or more"),
        ({"slaves": {"generations": {"999": 2}}}, "slaves.generations.999: 999 is not a slot of this overlay; give 1 to 239"),
        ({"slaves": {"instanceTyp": "t3.small"}}, "slaves.instanceTyp: unknown key; did you mean slaves.instanceType?"),
        ({"slaves": {"instanceType": "huge"}}, "slaves.instanceType: huge is malformed; give one such as t3.small"),
        ({"slave": {"count": 3}}, "slave: unknown key; did you mean slaves?"),
        ({"zones": ["a", "us-east-1b"]}, "zones[1]: us-east-1b is not a zone of region eu-west-1; give a letter such as a, or eu-west-1a"),
        ({"zones": ["a", "a"]}, "zones[1]: a is listed twice; list each zone once"),
        ({"zones": ["a", {"name": "b", "fromSlot": 5}, "c"]}, "zones[2]: c comes after an appended zone; give it a fromSlot of 5 or more"),
        ({"zones": []}, "zones: [] is empty; give one such as [a, b]"),
        ({"zones": "a"}, "zones: a is not a list; give one such as [a, b]"),
        ({"zones": [3]}, "zones[0]: 3 is not a zone; give a letter such as a, or {name: c, fromSlot: 13}"),
        ({"zones": ["a", {"fromSlot": 4}]}, "zones[1].name: is missing; give one such as a"),
        ({"zones": ["a", {"name": "b", "fromslot": 4}]}, "zones[1].fromslot: unknown key; did you mean zones[1].fromSlot?"),
        ({"zones": ["a", {"name": "b", "fromSlot": "4"}]}, "zones[1].fromSlot: 4 is text, not a whole number; give it without quotes"),
        ({"zones": ["A"]}, "zones[0].name: A is malformed; give one such as a"),
        ({"zones": list("abcdefgh")}, 'zones: ["a", "b", "c", "d", "e", "f", "g", "h"] has 8 entries; give at most 7'),
        ({"region": "moon"}, "aws:region: moon is malformed; give one such as eu-west-1"),
        ({"regoin": "eu-west-1"}, "regoin: unknown key; did you mean aws:region?"),
        ({"secret": {}}, "secret: unknown key; did you mean secrets?"),
        ({"edgeCertificat": "PEM"}, "edgeCertificat: unknown key; did you mean edgeCertificate?"),
        ({"adminprivatekey": "PEM"}, "adminprivatekey: unknown key; did you mean adminPrivateKey?"),
        ({"adminKey": "PEM"}, "adminKey: unknown key; did you mean admin or adminPrivateKey?"),
        ({"xyz": 1}, "xyz: unknown key; valid here: zones, network, overlay, slaves, control, edge, consul, mesos, admin, image, awsEndpoint, tags, secrets, adminPrivateKey, edgeCertificate"),
        ({"control": {"count": 2}}, "control.count: 2 servers cannot hold a useful majority; give 1, 3 or 5 (an odd number)"),
        ({"control": {"count": 7}}, "control.count: 7 servers cannot hold a useful majority; give 1, 3 or 5 (an odd number)"),
        ({"edge": {"count": 0}}, "edge.count: 0 is out of range; give 1 or more"),
        ({"edge": {"publish": ["web", "Bad_Name"]}}, "edge.publish[1]: Bad_Name is malformed; give one such as web"),
        ({"edge": {"publish": "web"}}, "edge.publish: web is not a list; give one such as [web, api]"),
        ({"edge": {"domain": "a" * 254}}, f"edge.domain: {'a' * 80}… is too long; give 253 characters at most"),
        ({"edge": {"publish": ["web", "web"]}}, "edge.publish[1]: web is listed twice; list each service once"),
        ({"edge": {"deletionProtection": True}}, "edge.deletionProtection: protects the load balancer, and one edge has none; leave it out, and where the stack has several edges set it to false and run `pulumi up` before you lower edge.count"),
        ({"network": {"flowLogs": "yes"}}, "network.flowLogs: yes is not a choice; give 'none', 'reject' or 'all'"),
        ({"edge": {"defaultService": "a b"}}, "edge.defaultService: a b is malformed; give one such as web"),
        ({"edge": {"tls": {"enabeld": True}}}, "edge.tls.enabeld: unknown key; did you mean edge.tls.enabled?"),
        ({"edge": {"tls": {"enabled": 1}}}, "edge.tls.enabled: 1 is neither true nor false; give one of the two"),
        ({"edge": {"tls": {"enabled": "yes"}}}, "edge.tls.enabled: yes is neither true nor false; give one of the two"),
        ({"edge": {"tls": {"enabled": "true"}}}, "edge.tls.enabled: true is text; give it without quotes"),
        ({"edge": {"tls": {"hsts": 300}}}, "edge.tls.hsts: 300 keeps browsers to HTTPS; give it with edge.tls.enabled and edge.tls.redirect, or leave it out"),
        ({"edge": {"tls": {"enabled": True, "hsts": 63072001}}}, "edge.tls.hsts: 63072001 is out of range; give at most 63072000"),
        ({"edge": {"client": {"requests": -1}}}, "edge.client.requests: -1 is out of range; give 0 or more"),
        ({"edge": {"tls": True}}, "edge.tls: true is not a set of keys; give key: value lines below it"),
        ({"network": {"cidr": "10.0.0.0/24"}}, "network.cidr: 10.0.0.0/24 is too small for seven zones' subnets; give a /16 to /21 such as 10.0.0.0/16"),
        ({"network": {"cidr": "172.16.0.0/12"}}, "network.cidr: 172.16.0.0/12 is larger than AWS allows for a VPC; give a /16 to /21 such as 172.16.0.0/16"),
        ({"network": "wide"}, "network: wide is not a set of keys; give key: value lines below it"),
        ({"network": {"cidr": "192.168.0.0/21"}, "overlay": {"mesh": "vxlan"}, "slaves": {"count": 230}}, "slaves.count: 230 needs slot 230, which does not fit its zone's subnet (192.168.0.0/24); slots end at 222, so give fewer, or create a new stack with a wider network.cidr"),
        ({"admin": {"allowedCidrs": ["0.0.0.0/0"], "publicKey": "ssh-ed25519 AAAA"}}, "admin.allowedCidrs[0]: 0.0.0.0/0 is the world or near it; give your own network, such as 203.0.113.7/32"),
        ({"admin": {"allowedCidrs": ["203.0.113.0/24"]}}, "admin.publicKey: is missing, and admin.allowedCidrs opens SSH; give the key that may log in"),
        ({"admin": {"agent": "false"}}, "admin.agent: false is text; give it without quotes"),
        ({"admin": {"allowedCidrs": "203.0.113.7/32"}}, "admin.allowedCidrs: 203.0.113.7/32 is not a list; give one such as [203.0.113.7/32]"),
        ({"image": {"name": "x"}}, "image.name: x is too short; give 3 characters or more"),
        ({"image": {"id": "ami-1"}}, "image.id: ami-1 is malformed; give one such as ami-0123456789abcdef0"),
        ({"image": {"baked": "perhaps"}}, "image.baked: perhaps is neither true nor false; give one of the two"),
        ({"mesos": {"source": "docker"}}, "mesos.source: docker is not a choice; give 'images', 'packages' or 'host'"),
        ({"mesos": {"marathonImage": "mesosphere/marathon"}}, "mesos.marathonImage: mesosphere/marathon is malformed; give one such as mesosphere/marathon:v1.7.50"),
        ({"mesos": {"repository": "https://apt.example.com/mesos bookworm main"}}, "mesos.repository: is for mesos.source packages, which is images; leave one of them out"),
        ({"mesos": {"source": "packages", "repository": "https://apt.example.com/ bookworm main", "repositoryFingerprint": "A" * 40}}, "mesos.repositoryKey: is missing, and mesos.source is packages; give one such as https://apt.example.com/mesos.gpg"),
        ({"mesos": {"published": ["zookeeper"]}}, "mesos.published[0]: zookeeper is not a choice; give 'marathon' or 'mesos-master'"),
        ({"slaves": {"instanceType": "t4g.medium"}}, "slaves.instanceType: t4g.medium is arm64, and image.name debian-12-amd64-* is x86_64; give one of that architecture such as t3.small"),
        ({"edge": {"instanceType": "a1.large"}}, "edge.instanceType: a1.large is arm64, and image.name debian-12-amd64-* is x86_64; give one of that architecture such as t3.small"),
        ({"control": {"instanceType": "t4g.small"}, "image": {"name": "my-own-*"}}, "control.instanceType: t4g.small is arm64, and slaves.instanceType is x86_64; give one of that architecture such as t3.small"),
        ({"image": {"name": "debian-12-arm64-*"}, "control": {"instanceType": "t4g.small"}, "edge": {"instanceType": "t4g.small"}}, "slaves.instanceType: t3.medium is x86_64, and image.name debian-12-arm64-* is arm64; give one of that architecture such as t4g.small"),
        ({"region": "cn-north-1"}, "aws:region: cn-north-1 is in a partition of its own, with other endpoints and other owners of images, which this program does not know; give a region of AWS's main partition such as eu-west-1"),
        ({"region": "us-gov-west-1"}, "aws:region: us-gov-west-1 is in a partition of its own, with other endpoints and other owners of images, which this program does not know; give a region of AWS's main partition such as eu-west-1"),
        ({"admin": {"publicKey": "ssh-ed25519 AAAA", "allowedCidrs": ["203.0.113.7/32", "203.0.113.7/32"]}}, "admin.allowedCidrs[1]: 203.0.113.7/32 is listed twice; list each network once"),
        ({"admin": {"publicKey": "ssh-ed25519 AAAA", "allowedCidrs": [f"203.0.113.{n}/32" for n in range(59)]}}, "admin.allowedCidrs: has 59 networks, and AWS takes 60 rules in a group, a few of them the edge's own; give at most 58, or wider ones"),
        ({"tags": {"owner": "R&D (core)"}}, "tags.owner: its value has &(), which IAM does not take; give letters, digits, spaces and _.:/=+-@"),
        ({"tags": {"a*b": "x"}}, "tags.a*b: its name has *, which IAM does not take; give letters, digits, spaces and _.:/=+-@"),
        ({"tags": {"owner": "x" * 257}}, "tags.owner: its value has 257 characters; give 256 at most"),
        ({"tags": {"APOLLO:owner": "me"}}, "tags.APOLLO:owner: is not yours to set; give a name of 1 to 128 characters not starting with aws: or apollo:"),
        ({"tags": {"": "x"}}, "tags.: is not yours to set; give a name of 1 to 128 characters not starting with aws: or apollo:"),
        ({"tags": {"x" * 129: "x"}}, f"tags.{'x' * 129}: is not yours to set; give a name of 1 to 128 characters not starting with aws: or apollo:"),
        ({"tags": {f"t{n}": "x" for n in range(60)}}, f"tags: has 60, and AWS takes 50 with the {OWN_TAGS} of the program itself; give at most {50 - OWN_TAGS}"),
        ({"tags": {"Team": "a", "team": "b"}}, "tags.team: is there in other letters, which IAM takes for the same; give one of the two"),
        ({"tags": {"name": "a"}}, "tags.name: is not yours to set; give a name of 1 to 128 characters not starting with aws: or apollo:"),
        ({"tags": {"aws:owner": "me"}}, "tags.aws:owner: is not yours to set; give a name of 1 to 128 characters not starting with aws: or apollo:"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_its_key_its_value_and_what_would_do(raw: dict[str, Any], expected: str) -> None:
    assert problems(raw) == [expected]


GRAVITON = {name: {"instanceType": "t4g.small"} for name in ("slaves", "control", "edge")}


@pytest.mark.parametrize(
    "raw",
    [
        {"tags": {"x" * 128: "y" * 256, "z": ""}},
        {"slaves": {"count": 239}, "control": {"count": 5}, "edge": {"count": 10}},
        {"tags": {f"t{n}": "x" for n in range(50 - OWN_TAGS)}},
        {"admin": {"publicKey": "ssh-ed25519 AAAA", "allowedCidrs": [f"203.0.113.{n}/32" for n in range(58)]}},
        {"image": {"name": "debian-12-arm64-*"}, **GRAVITON},
        {"image": {"name": "debian-12-aarch64-*"}, **GRAVITON},
        # A name with both says nothing, and neither does the name of an image that is given by its id.
        {"image": {"name": "amd64-or-arm64-*"}, **GRAVITON},
        {"image": {"id": "ami-0123456789abcdef0"}, **GRAVITON},
    ],
)
def test_a_value_at_its_limit_and_an_image_of_the_hosts_kind_pass(raw: dict[str, Any]) -> None:
    settings, found = examine({"region": "eu-west-1", **raw})
    assert [*found, *check_aws_limits(settings)] == []


def test_more_nodes_than_the_mesh_supports_name_one_that_does() -> None:
    raw = {"overlay": {"cidr": "10.128.0.0/9"}, "slaves": {"count": 300}}
    assert problems(raw) == [
        "overlay.mesh: weave supports 254 nodes and the stack has 304; give fewer, or a mesh that holds them: vxlan, wireguard"
    ]


def test_all_problems_come_in_one_error_that_says_nothing_was_created() -> None:
    raw: dict[str, Any] = {
        "overlay": {"cidr": "10.2.0.7/16", "mesh": "vxlan"},
        "slaves": {"count": 300, "instanceTyp": "t3.small"},
    }
    with pytest.raises(PlanError) as caught:
        parse(raw, "Pulumi.prod.yaml")
    assert str(caught.value) == (
        "Pulumi.prod.yaml: 3 problems, nothing was created.\n"
        "  overlay.cidr: 10.2.0.7/16 has host bits set; did you mean 10.2.0.0/16?\n"
        "  slaves.instanceTyp: unknown key; did you mean slaves.instanceType?\n"
        "  slaves.count: 300 is more than this overlay holds; give 0 to 239 (239 slots), or create a new stack with a wider overlay.cidr"
    )


def test_an_overlay_of_64_addresses_is_the_smallest_that_a_host_prefix_makes_room_in() -> None:
    def fitting(prefix: int) -> list[int]:
        network = IPNetwork(f"10.2.0.0/{prefix}")
        return [p for p in range(prefix + 1, 31) if OverlayPlan(network, p).last_slot >= 1]

    assert (fitting(26), fitting(27)) == ([27], [])
    assert parse({"overlay": {"cidr": "10.2.0.0/26", "hostPrefix": 27}, "slaves": {"count": 1}}).slots == [1]


def test_the_keys_of_secrets_are_those_that_the_secrets_are_kept_under() -> None:
    assert CERTIFICATE.key in SECRET_KEYS


def test_a_malformed_part_is_not_blamed_twice() -> None:
    assert problems({"overlay": {"cidr": "ten"}, "network": {"cidr": "10.2.0.0/16"}}) == [
        "overlay.cidr: ten is not an IPv4 network; give one such as 10.2.0.0/16"
    ]


def test_the_callers_mapping_is_left_as_it_was() -> None:
    raw = {"slaves": {"count": "three"}}
    with pytest.raises(PlanError):
        parse(raw)
    assert raw == {"slaves": {"count": "three"}}


def test_all_but_the_region_has_a_default() -> None:
    assert parse({}) == Settings(region="eu-west-1")


def test_a_missing_region_is_one_problem_among_others() -> None:
    with pytest.raises(PlanError) as caught:
        parse_whole({"zones": ["a"], "slaves": {"count": -1}})
    assert [str(problem) for problem in caught.value.problems] == [
        "aws:region: is missing; give one such as eu-west-1",
        "slaves.count: -1 is out of range; give 0 or more",
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("t4g", "m6g", "m6gd", "c6gn", "c7g", "r8g", "x2gd", "im4gn", "is4gen", "g5g", "hpc7g", "i8ge", "m8gb", "p6e-gb200", "a1"), "arm64"),
        (("t2", "t3a", "m5", "m7i-flex", "c5n", "c5ad", "g4dn", "g5", "g6e", "gr6", "hpc7a", "u-6tb1", "u7in-16tb", "p5en", "x2iedn", "trn1", "i3en"), "x86_64"),
    ],
)  # fmt: skip
def test_a_types_name_tells_its_architecture(names: tuple[str, ...], expected: str) -> None:
    assert {name: architecture(f"{name}.large") for name in names} == dict.fromkeys(names, expected)


def test_types_of_two_architectures_are_refused_whatever_the_image_is() -> None:
    raw = {"image": {"id": "ami-0123456789abcdef0"}, "slaves": {"instanceType": "m6g.large"}}
    assert [line.partition(": ")[0] for line in problems(raw)] == ["control.instanceType", "edge.instanceType"]


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["region", "zones", "network", "overlay", "slaves", "control", "edge", "admin", "tags", "other"]),
        _values
        | st.dictionaries(st.sampled_from(["cidr", "count", "retired", "generations", "hostPrefix", "mtu", "mesh"]), _values),
        max_size=4,
    )
)
def test_any_input_is_either_settings_or_a_plan_error(raw: dict[str, Any]) -> None:
    try:
        assert isinstance(parse(raw), Settings)
    except PlanError as error:
        # In our words, never in the library's: what is wrong; what would do.
        assert all("; " in problem.text and "Input should" not in problem.text for problem in error.problems)
