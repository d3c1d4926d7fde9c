"""The wireguard mesh: an encrypted, routed link. Each host makes its key at its first boot and publishes the public half as
metadata of its Consul node. The kernel's WireGuard where it has one, else wireguard-go (apollo-wireguard.service)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from host.apollo import local
from host.apollo.mesh import routed
from plan import ports

PRIVATE_KEY = Path("/var/lib/apollo/wireguard.key")
# Seconds that wireguard-go may take to make its device.
PATIENCE = 10


def checked(text: str) -> str:
    """text, if it is a key. Anything else would be kept and used as this host's key at each boot. Raises ValueError."""
    if not routed.KEY.fullmatch(text.strip()):
        raise ValueError("wg made no key")
    return text


def make_key() -> None:
    """This host's key, made once, and its public half for Consul's agent. Neither leaves the host but the latter."""
    if not PRIVATE_KEY.exists():
        local.write(PRIVATE_KEY, checked(routed.run("wg", "genkey")), 0o600)
    public = checked(routed.run("wg", "pubkey", lines=PRIVATE_KEY.read_text()))
    if not routed.PUBLIC_KEY.exists() or routed.PUBLIC_KEY.read_text() != public:
        local.write(routed.PUBLIC_KEY, public)


def in_userspace() -> None:
    """Has systemd run wireguard-go, and waits until it has made the device."""
    routed.run("systemctl", "start", "apollo-wireguard.service")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if subprocess.run(["wg", "show", LINK.device], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)
    print("wireguard-go made no device; see journalctl -u apollo-wireguard", flush=True)


class WireGuard(routed.Link):
    """Tables: keys (public key → "VPC address:port allowed addresses"), routes."""

    name, device = "wireguard", "wgweave"
    keyed = True

    def make(self, facts: Mapping[str, str]) -> None:
        make_key()
        if not Path("/sys/class/net", self.device).exists():
            add = ["ip", "link", "add", self.device, "type", "wireguard"]
            done = subprocess.run(add, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"not in the kernel, so wireguard-go does it: {done.stderr.strip()}", flush=True)
                in_userspace()
        # The key from its file: every user of the host can read an argument.
        if routed.run("wg", "show", self.device, "public-key") != routed.PUBLIC_KEY.read_text():
            routed.run("wg", "set", self.device, "private-key", str(PRIVATE_KEY), "listen-port", str(ports.WIREGUARD))
        routed.run("ip", "link", "set", self.device, "mtu", facts["BRIDGE_MTU"], "up")
        routed.answer_for_others()

    def wanted(self, peers: Sequence[routed.Peer]) -> routed.Tables:
        # What a peer may send from is what is sent to it; WireGuard drops the rest.
        allowed = {peer.key: sorted(f"{peer.bridge}/32 {peer.subnet}".split()) for peer in peers}
        return {
            "keys": {peer.key: f"{peer.address}:{ports.WIREGUARD} {','.join(allowed[peer.key])}" for peer in peers},
            "routes": routed.routes(peers, through_bridge=False),
        }

    def present(self) -> routed.Tables:
        keys: routed.Table = {}
        for line in routed.run("wg", "show", self.device, "dump").splitlines()[1:]:
            key, _, endpoint, allowed, *_ = line.split("\t")
            keys[key] = f"{endpoint} {','.join(sorted(allowed.split(',')))}"
        return {"keys": keys, "routes": routed.present_routes(self.device)}

    def commands(self, now: routed.Tables, then: routed.Tables, source: str) -> list[routed.Command]:
        gone, new = routed.differ(now["keys"], then["keys"])
        commands: list[routed.Command] = []
        peers = [word for key in gone for word in ("peer", key, "remove")]
        for key, value in new:
            endpoint, allowed = value.split(" ")
            peers += ["peer", key, "endpoint", endpoint, "allowed-ips", allowed]
        if peers:
            commands.append((("wg", "set", self.device, *peers), ""))
        routes_gone, routes = routed.route_lines(self.device, now["routes"], then["routes"], source)
        if routes_gone or routes:
            commands.append((("ip", "-force", "-batch", "-"), "".join(f"{line}\n" for line in routes_gone + routes)))
        return commands


LINK = WireGuard()
