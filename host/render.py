"""One planned host → its files → its user-data, as plain values fixed before any cloud call.

A host's files come in layers, each file of files/ at the path that it has on the host: boot/ and rootfs/ (every host),
roles/<role>/, mesh/<layer>/, packages/ (hosts of an image without packages). One layer more is the hosts' program (package.py).
They are the same on every host of a role, but for /etc/apollo/node.env, which holds the host's facts, and for templates. A file
ending in .tmpl has `{{ names }}`: those of a host, or ports as `{{ ports.HTTP }}` (plan/ports.py), which alone make no file a
host's own. No byte depends on which other hosts exist.

User-data carries what is this host's own, and boot/: the bridge, the way in, and what fetches the rest. The rest, 80 KB of
programs and units where EC2 takes 16 KiB, is one archive a role in the stack's bucket, and user-data names it by its digest.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from host import package
from plan import ports
from plan.addresses import OverlayPlan
from plan.admin import ADMIN_USER
from plan.cluster import Cluster, PlannedHost, Role
from plan.secrets import parameters
from plan.settings import Mesos

# EC2's limit on user-data, in bytes before base64.
MAX_BYTES = 16384
# Where the data volume is attached, in EC2's terms. On Nitro machines the kernel gives it another name; see data-volume.
DATA_DEVICE = "/dev/sdf"
NODE_ENV = "/etc/apollo/node.env"
PARAMETERS = "/etc/apollo/parameters"
PROGRAMS = "/etc/apollo/programs"

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / "host/files"
# The layer that is the hosts' program itself, whichever the role.
_PACKAGE = "apollo"
_TEMPLATE = ".tmpl"
_BOOT = "boot"
_FIELD = re.compile(r"\{\{ ([A-Za-z_.]+) \}\}")
_PORTS = {f"ports.{name}": str(port) for name, port in vars(ports).items() if name.isupper()}
# Characters that double quotes suffice for, in a shell, in systemd and in Python.
_SAFE = re.compile(r"[A-Za-z0-9 ./:_@+-]*")


class UserDataError(ValueError):
    """A host's user-data cannot be made. The message names the host and what is wrong."""


@dataclass(frozen=True, order=True)
class HostFile:
    """A file of a host, owned by root.

    source: its place in the repository, None where it is made from the plan alone. fetched: whether the role's archive brings
    it, and not the user-data itself. own: whether a template was filled with what is this host's.
    """

    path: str
    mode: int
    content: str
    source: str | None
    fetched: bool = False
    own: bool = False


@dataclass(frozen=True)
class Programs:
    """What hosts of a role fetch from the stack's bucket.

    key: the object's, programs/<role>/<SHA-256 of the tar archive, in hex>. archive: the tar archive, gzipped.
    """

    key: str
    archive: bytes


def node_facts(cluster: Cluster, host: PlannedHost, stack: str) -> dict[str, str]:
    """What node.env says, in its order. Everything follows from the settings and this host alone."""
    settings = cluster.settings
    return {
        "NODE_NAME": host.name,
        "ROLE": host.role,
        # The slot of a slave, else the number of the control node or edge.
        "INDEX": str(host.index),
        "GENERATION": str(host.generation),
        "STACK": stack,
        "REGION": settings.region,
        "ZONE": host.zone.name,
        "VPC_CIDR": str(cluster.vpc.network),
        "VPC_RESOLVER": str(cluster.vpc.resolver),
        **_existing_facts(cluster),
        "PRIVATE_IP": str(host.private_ip),
        "UNDERLAY_MTU": str(settings.network.mtu),
        "OVERLAY_CIDR": str(cluster.overlay.network),
        "HOST_PREFIX": str(cluster.overlay.host_prefix),
        "BRIDGE_ADDRESS": str(host.bridge_address.ip),
        "BRIDGE_PREFIX": str(host.bridge_address.prefixlen),
        "BRIDGE_MTU": str(cluster.mtu),
        "DOCKER_SUBNET": str(host.docker_subnet or ""),
        "MESH": cluster.mesh.name,
        "MESH_MAX_NODES": str(cluster.mesh.max_nodes),
        **({"WEAVE_FROM": settings.overlay.weave_from} if cluster.mesh.name == "weave" else {}),
        # All five that may ever exist, so that growing control changes no other host.
        "CONTROL_ADDRESSES": " ".join(str(address) for address in cluster.control_addresses),
        "CONSUL_DATACENTER": settings.consul.datacenter,
        "CONSUL_DOMAIN": settings.consul.domain,
        "CONSUL_TLS": "1" if settings.consul.tls else "0",
        **_edge_facts(cluster, host),
        "SSM_PREFIX": f"/apollo/{stack}",
        # Empty: AWS itself.
        "AWS_ENDPOINT": settings.aws_endpoint or "",
        "DATA_DEVICE": DATA_DEVICE if host.data_gib else "",
        "BAKED": "1" if settings.image.baked else "0",
    }


def _existing_facts(cluster: Cluster) -> dict[str, str]:
    """The subnets of a VPC that exists. In a VPC of the stack's own they follow from the range."""
    # Each with the offset of its first host, and whatever the order of zones.
    zones = sorted(cluster.vpc.existing, key=lambda both: both[0].network)
    subnets = {"PRIVATE_SUBNETS": [private for private, _ in zones], "PUBLIC_SUBNETS": [public for _, public in zones]}
    return {name: " ".join(f"{one.network}+{one.first_host}" for one in found) for name, found in subnets.items() if found}


def _edge_facts(cluster: Cluster, host: PlannedHost) -> dict[str, str]:
    """What only edges know, so that a change of it concerns no other host."""
    if host.role != "edge":
        return {}
    edge, overlay = cluster.settings.edge, cluster.overlay
    return {
        "EDGE_DOMAIN": edge.domain,
        # First and last address that a container can have, whichever slaves there are.
        "EDGE_CONTAINERS": f"{overlay.docker_subnet(1)[0]} {overlay.docker_subnet(overlay.last_slot)[-1]}",
        # Where the load balancer's nodes are, whichever zones there are.
        "EDGE_BALANCERS": " ".join(map(str, cluster.vpc.public)),
        "EDGE_PUBLISH": " ".join(edge.publish),
        "EDGE_DEFAULT_SERVICE": edge.default_service or "",
        "EDGE_TLS": "1" if edge.tls.enabled else "0",
        "EDGE_TLS_REDIRECT": "1" if edge.tls.enabled and edge.tls.redirect else "0",
        "EDGE_TLS_HSTS": str(edge.tls.hsts),
        "EDGE_CLIENT_CONNECTIONS": str(edge.client.connections),
        # In ten seconds, as HAProxy counts them.
        "EDGE_CLIENT_REQUESTS": str(10 * edge.client.requests),
    }


def host_files(cluster: Cluster, host: PlannedHost, stack: str) -> list[HostFile]:
    """Every file that is put on the host, by its user-data or by the archive that this names, by path.

    Raises UserDataError for a fact that node.env cannot hold, an unknown `{{ name }}`, or two layers with one path.
    """
    facts = node_facts(cluster, host, stack)
    for key, value in facts.items():
        if not _SAFE.fullmatch(value):
            raise UserDataError(f"{host.name}: {key} is {value!r}; letters, digits and ./:_@+- are what node.env can hold")
    names = parameters(host.role, cluster.settings)
    files = [
        HostFile(NODE_ENV, 0o644, "".join(f'{key}="{value}"\n' for key, value in facts.items()), None),
        HostFile(PARAMETERS, 0o644, "".join(f"{name}\n" for name in names), None),
        *_mesos_files(cluster.settings.mesos, host.role),
        HostFile(PROGRAMS, 0o644, f"{programs(cluster, host.role).key}\n", None),
        *_from_repository(cluster, host, _template_values(cluster.overlay, host, facts)),
    ]
    files.sort(key=lambda file: (file.path, file.source or ""))
    for one, other in pairwise(files):
        if one.path == other.path:
            raise UserDataError(f"{host.name}: {one.path} comes from both {one.source} and {other.source}")
    return files


def user_data(cluster: Cluster, host: PlannedHost, stack: str) -> bytes:
    """The host's user-data: gzipped cloud-config, the same bytes for the same plan.

    Raises UserDataError beyond 16 KiB, and whatever host_files raises.
    """
    config = cloud_config(cluster, host, host_files(cluster, host, stack))
    # JSON is YAML, in one way of writing only. No time stamp and no file name in the gzip header.
    text = "#cloud-config\n" + json.dumps(config, ensure_ascii=False, separators=(",", ":")) + "\n"
    data = gzip.compress(text.encode(), compresslevel=9, mtime=0)
    if len(data) > MAX_BYTES:
        raise UserDataError(f"{host.name}: user-data is {len(data)} bytes, and EC2 takes {MAX_BYTES}; shorten its files")
    return data


def user_data_base64(cluster: Cluster, host: PlannedHost, stack: str) -> str:
    """user_data in base64, as EC2 wants it."""
    return base64.b64encode(user_data(cluster, host, stack)).decode()


def cloud_config(cluster: Cluster, host: PlannedHost, files: list[HostFile]) -> dict[str, object]:
    """The cloud-config that carries the files. It says who the host is; everything it does is in the files."""
    key = cluster.settings.admin.public_key
    admin: dict[str, object] = {
        "name": ADMIN_USER,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": True,
        **({"ssh_authorized_keys": [key]} if key else {}),
    }
    return {
        "hostname": host.name,
        "preserve_hostname": False,
        "manage_etc_hosts": "localhost",
        # As text, which the schema wants. It leaves the image's locale alone: there may be no update-locale.
        "locale": "false",
        "users": [admin],
        "disable_root": True,
        "ssh_pwauth": False,
        # sshd has its key from SSM (sshd_config.d/apollo.conf), so those of the image are of no use.
        "ssh_deletekeys": False,
        "ssh_genkeytypes": ["ed25519"],
        "no_ssh_fingerprints": True,
        "ssh": {"emit_keys_to_console": False},
        "package_update": False,
        "package_upgrade": False,
        "write_files": [
            {"path": file.path, "permissions": f"{file.mode:04o}", "content": file.content}
            for file in files
            if not file.fetched
        ],
    }


def _mesos_files(mesos: Mesos, role: Role) -> Iterator[HostFile]:
    """Where the host gets Mesos from. With neither file it runs what it finds; see mesos.py."""
    if role == "edge":
        return
    names = (
        {"MASTER": mesos.master_image, "MARATHON": mesos.marathon_image} if role == "control" else {"AGENT": mesos.agent_image}
    )
    sources = {
        "images": names,
        "packages": {
            "REPOSITORY": mesos.repository,
            "KEY": mesos.repository_key,
            "FINGERPRINT": mesos.repository_fingerprint,
            "PACKAGES": " ".join(mesos.packages),
        },
    }
    if mesos.source in sources:
        text = "".join(f'{key}="{value}"\n' for key, value in sources[mesos.source].items())
        yield HostFile(f"/etc/apollo/mesos-{mesos.source}.env", 0o644, text, None)
    if role == "control" and mesos.published:
        yield HostFile(
            "/etc/apollo/mesos-published", 0o644, "".join(f"{name}\n" for name in sorted(set(mesos.published))), None
        )


def _template_values(overlay: OverlayPlan, host: PlannedHost, facts: Mapping[str, str]) -> dict[str, str]:
    return {
        "bridge_address": str(host.bridge_address),
        "bridge_ip": facts["BRIDGE_ADDRESS"],
        "bridge_mtu": facts["BRIDGE_MTU"],
        "docker_subnet": facts["DOCKER_SUBNET"],
        "consul_domain": facts["CONSUL_DOMAIN"],
        # On a slave by way of names.py, which keeps made-up names from the agent.
        "consul_dns_port": str(ports.CONSUL_NAMES if host.role == "slave" else ports.CONSUL_DNS),
        "vpc_resolver": facts["VPC_RESOLVER"],
        **_kernel_limits(overlay),
    }


def _kernel_limits(overlay: OverlayPlan) -> dict[str, str]:
    """What all containers of a host have together, from the most containers that it holds and the addresses they can ask for.

    The neighbour table is one for all network namespaces of a kernel: twice what a scan of the whole overlay puts into it. For
    each container 1,024 connections, 16 inotify instances and 512 watches. The kernel pins about 400, 320 and 1,000 bytes for
    a neighbour, a connection and a watch in use.
    """
    containers = max(overlay.block_size, 64)
    neighbours = 2 * min(overlay.network.size, 1 << 16)
    return {
        "neighbours": str(neighbours),
        "neighbours_soft": str(neighbours // 2),
        "neighbours_kept": str(neighbours // 8),
        "connections": str(1024 * containers),
        "inotify_instances": str(128 + 16 * containers),
        "inotify_watches": str(512 * containers),
    }


def programs(cluster: Cluster, role: Role) -> Programs:
    """What hosts of the role fetch."""
    return _programs(_FOLDER, role, tuple(layer for layer in _layers(cluster, role) if layer != _BOOT))


def _layers(cluster: Cluster, role: Role) -> list[str]:
    packages = [] if cluster.settings.image.baked else ["packages"]
    mesh = [f"mesh/{layer}" for layer in cluster.mesh.layers]
    return [_BOOT, _PACKAGE, "rootfs", f"roles/{role}", *mesh, *packages]


def _from_repository(cluster: Cluster, host: PlannedHost, values: Mapping[str, str]) -> Iterator[HostFile]:
    for layer in _layers(cluster, host.role):
        for file in _layer(_FOLDER, layer):
            yield _filled(host, file, values) if file.path.endswith(_TEMPLATE) else file


@functools.cache
def _layer(folder: Path, layer: str) -> tuple[HostFile, ...]:
    """The layer's files as every host has them. A template with more names than those of ports is still to be filled."""
    found: list[HostFile] = []
    for path, source in _sources(folder, layer).items():
        content = source.read_text()
        if path.endswith(_TEMPLATE):
            content = _FIELD.sub(lambda field: _PORTS.get(field[1], field[0]), content)
            path = path if _FIELD.search(content) else path.removesuffix(_TEMPLATE)
        place = source.relative_to(folder if source.is_relative_to(folder) else _ROOT)
        found.append(HostFile(f"/{path}", _mode(content), content, place.as_posix(), layer != _BOOT))
    return tuple(found)


@functools.cache
def _programs(folder: Path, role: Role, layers: tuple[str, ...]) -> Programs:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in (file for layer in layers for file in _layer(folder, layer)):
            if not file.path.endswith(_TEMPLATE):
                entry, content = tarfile.TarInfo(file.path[1:]), file.content.encode()
                entry.size, entry.mode = len(content), file.mode
                archive.addfile(entry, io.BytesIO(content))
    # The digest is the archive's and not the gzip's, as another version of zlib may compress it differently.
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return Programs(f"programs/{role}/{digest}", gzip.compress(buffer.getvalue(), compresslevel=9, mtime=0))


@functools.cache
def _sources(folder: Path, layer: str) -> dict[str, Path]:
    """Path on the host, without its first / → source, of a layer's files, by path."""
    files = {
        path.relative_to(folder / layer).as_posix(): path
        for path in (folder / layer).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    if layer in (_BOOT, _PACKAGE):
        files |= {
            f"{package.LIBRARY[1:]}/{path}": source
            for path, source in package.sources().items()
            if (path in package.BOOT) == (layer == _BOOT)
        }
    return dict(sorted(files.items()))


def _filled(host: PlannedHost, template: HostFile, values: Mapping[str, str]) -> HostFile:
    """The host's own file, which its user-data carries."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UserDataError(
                f"{host.name}: {template.source}: unknown name {match[1]}; known: {', '.join(values)}, {', '.join(_PORTS)}"
            )
        return values[match[1]]

    content = _FIELD.sub(value, template.content)
    return HostFile(template.path.removesuffix(_TEMPLATE), _mode(content), content, template.source, own=True)


def _mode(content: str) -> int:
    """By what is in the file and not by the checkout's mode bits, which not every file system keeps."""
    return 0o755 if content.startswith("#!") else 0o644
