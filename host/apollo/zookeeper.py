"""This control node's part in the ZooKeeper ensemble.

apollo zookeeper prepare        before its start: writes its configuration (root)
apollo zookeeper members        the ensemble's members, as this node's ZooKeeper has them
apollo zookeeper add            takes this node into the ensemble as a voter
apollo zookeeper remove NUMBER  drops a control node that is gone for good from the ensemble
apollo zookeeper own            gives what masters and Marathon keep here to their present password, after it was changed

The client that makes a node first decides who owns it. So until `claim` has looked after each start, other hosts are refused,
and this node's own master and Marathon wait: then /mesos and /marathon are their user's, and no one makes anything beside them.

Who the members are stands in ZooKeeper and on each member's disk, and changes by ZooKeeper's own reconfiguration only. Two
lists in use at a time, as in a restart of one after the other, could elect two leaders. So:
- With data a node starts as its data say.
- With blank data it looks for an ensemble among the five control addresses. Where one answers it starts with that one's
  members, as an observer if it is none of them; `add` makes a voter of it.
- Where none answers it takes control nodes 1 to the planned count as the members. All first nodes of a stack do, and wait for
  a majority of them. A node alone is none, unless one is all that was planned.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pwd
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from host.apollo import local
from plan import ports

DATA = Path("/data/zookeeper")
CONFIG = DATA / "zoo.cfg"
RUN = Path("/run/apollo-zookeeper")
PASSWORD = RUN / "super"
CLAIMED = RUN / "claimed"
CLIENT_PORT = ports.ZOOKEEPER_CLIENT
# Seconds.
TIMEOUT = 3
# Whose masters' and Marathon's nodes are, and what others may do there: agents and frameworks ask which master leads, and what
# Marathon keeps has the applications' passwords in it.
USER = "mesos"
TREES = {"/mesos": ",world:anyone:r", "/marathon": ""}
# What a ZooKeeper begins with, each open to all to make nodes below.
ROOTS = ("/", "/zookeeper", "/zookeeper/quota")
GATE = "table inet apollo-zookeeper"
JARS = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-nop.jar"
# syncLimit, connectToLearnerMasterLimit: ticks until a machine that is gone without a word is noticed, and until a member that
# still takes it for the leader looks for another one (with the defaults an election took 76 s; docs/mesos.md).
# admin.enableServer: an HTTP server without a password. The four-letter words are those that this file and the check ask.
SETTINGS = f"""\
tickTime=2000
initLimit=10
syncLimit=3
connectToLearnerMasterLimit=2
dataDir={DATA}
standaloneEnabled=false
reconfigEnabled=true
admin.enableServer=false
4lw.commands.whitelist=srvr,conf
autopurge.snapRetainCount=3
autopurge.purgeInterval=24
"""
MEMBER = re.compile(r"server\.(\d+)=([0-9.]+):\d+:\d+:(participant|observer)")

Members = Mapping[int, tuple[str, str]]  # number: (address, role)


class ZooKeeperError(Exception):
    """ZooKeeper refused, or did not do what it was asked. The text has its own words and never a password."""


def line(number: int, address: str, role: str) -> str:
    """One member, as ZooKeeper writes it."""
    return f"server.{number}={address}:{ports.ZOOKEEPER_PEER}:{ports.ZOOKEEPER_ELECTION}:{role};{address}:{CLIENT_PORT}"


def ask(address: str, word: str) -> str:
    """The answer to a four-letter word, empty where no server answers."""
    try:
        with socket.create_connection((address, CLIENT_PORT), TIMEOUT) as peer:
            peer.sendall(word.encode())
            answer = b""
            while part := peer.recv(65536):
                answer += part
            return answer.decode(errors="replace")
    except OSError:
        return ""


def mode(address: str) -> str:
    """leader, follower or observer; empty where the node does not serve, which takes a majority of the ensemble."""
    found = re.search(r"^Mode: (\w+)$", ask(address, "srvr"), re.MULTILINE)
    return found[1] if found else ""


def members(address: str) -> Members:
    """The ensemble as the node at this address has it."""
    return {int(number): (place, role) for number, place, role in MEMBER.findall(ask(address, "conf"))}


def list_file() -> Path | None:
    """The file with the members, as ZooKeeper last wrote its name into zoo.cfg."""
    kept = re.search(r"^dynamicConfigFile=(.+)$", CONFIG.read_text(), re.MULTILINE) if CONFIG.exists() else None
    return Path(kept[1]) if kept and Path(kept[1]).exists() else None


def silence() -> str:
    """Why this node does not serve: which of the members on its disk answer at all."""
    path = list_file()
    if path is None:
        return "it never started"
    voters = {int(number): address for number, address, role in MEMBER.findall(path.read_text()) if role != "observer"}
    with ThreadPoolExecutor(5) as pool:
        up = [
            number for number, answer in zip(voters, pool.map(lambda a: ask(a, "srvr"), voters.values()), strict=True) if answer
        ]
    found = ", ".join(map(str, up)) or "none"
    return f"of control nodes {', '.join(map(str, voters))} a majority must be up, and there is {found}"


def standing(addresses: Sequence[str]) -> Members:
    """The members of an ensemble that serves, nothing where none of the addresses has one."""
    with ThreadPoolExecutor(5) as pool:
        serving = [address for address, found in zip(addresses, pool.map(mode, addresses), strict=True) if found]
    return next((found for address in serving if (found := members(address))), {})


def first_members(facts: Mapping[str, str], ensemble: Members, count: int) -> Members:
    """Whom a node with blank data takes for the members. ensemble: of those that serve; count: how many are planned."""
    own = int(facts["INDEX"])
    addresses = facts["CONTROL_ADDRESSES"].split()
    known = ensemble or {number: (address, "participant") for number, address in enumerate(addresses[:count], 1)}
    return {own: (facts["PRIVATE_IP"], "observer"), **known}


def configuration(facts: Mapping[str, str]) -> str:
    """What zoo.cfg must say now. Writes the first list of members where there are no data."""
    path = list_file()
    if path is None or not (DATA / "version-2").is_dir():
        others = [address for address in facts["CONTROL_ADDRESSES"].split() if address != facts["PRIVATE_IP"]]
        found = first_members(facts, standing(others), int(local.secret("control/count")))
        print(f"no data here; the members are control nodes {', '.join(map(str, sorted(found)))}", flush=True)
        path = CONFIG.with_name("zoo.cfg.dynamic")
        local.write(path, "".join(f"{line(number, *found[number])}\n" for number in sorted(found)))
    return f"{SETTINGS}dynamicConfigFile={path}\n"


def prepare(facts: Mapping[str, str]) -> None:
    """Writes everything that the server reads. The super-user, who alone may change the members, has a password of this one
    run, which only root on this host can read."""
    DATA.mkdir(mode=0o750, parents=True, exist_ok=True)
    local.write(CONFIG, configuration(facts))
    local.write(DATA / "myid", f"{facts['INDEX']}\n")
    give(DATA, pwd.getpwnam("zookeeper"))
    RUN.mkdir(mode=0o700, exist_ok=True)
    CLAIMED.unlink(missing_ok=True)
    nft(f"{GATE}\ndelete {GATE}\n{gate(facts)}")
    password = secrets.token_urlsafe(32)
    local.write(PASSWORD, password, 0o600)
    local.write(RUN / "environment", f"SUPER_DIGEST={digest(f'super:{password}')}\n", 0o600)


def gate(facts: Mapping[str, str]) -> str:
    """The packet rules while the trees may be anyone's. Refused, not dropped: a client then asks the next node at once."""
    control = ", ".join(facts["CONTROL_ADDRESSES"].split())
    hook = "type filter hook input priority filter - 20"
    rule = f"ip saddr != {{ {control} }} tcp dport {CLIENT_PORT} reject with tcp reset"
    return f"{GATE} {{\nchain input {{\n{hook}\n{rule}\n}}\n}}\n"


def nft(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=20)


def give(folder: Path, owner: pwd.struct_passwd) -> None:
    """Makes a folder and all below it the owner's. What a link in it points to stays whose it is: this is root's work in a
    folder that ZooKeeper may write."""
    os.chown(folder, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    # By open folders, so that none can become a link on the way to it.
    for _, folders, files, opened in os.fwalk(folder):
        for name in (*folders, *files):
            os.chown(name, owner.pw_uid, owner.pw_gid, dir_fd=opened, follow_symlinks=False)


def command(facts: Mapping[str, str], *lines: str) -> str:
    """What ZooKeeper's own client says to these lines, as the super-user at this node's server."""
    argv = ["java", "-Xmx48m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", JARS, "org.apache.zookeeper.ZooKeeperMain"]
    words = "\n".join((f"addauth digest super:{PASSWORD.read_text()}", *lines, "quit", ""))
    done = subprocess.run(
        [*argv, "-server", f"{facts['PRIVATE_IP']}:{CLIENT_PORT}"],
        input=words, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def change(facts: Mapping[str, str], what: str) -> None:
    """A change of the members, asked of this node's own server, which hands it to the leader. Raises ZooKeeperError."""
    said = command(facts, f"reconfig {what}")
    if "Committed new configuration" not in said:
        lines = "\n".join(said.strip().splitlines()[-3:])
        raise ZooKeeperError(f"reconfig {what}: {lines}")


def digest(login: str) -> str:
    """user:password as ZooKeeper keeps it."""
    return base64.b64encode(hashlib.sha1(login.encode()).digest()).decode()


def access(tree: str) -> str:
    """Who may do what in a tree, as ZooKeeper's client takes it."""
    return f"digest:{USER}:{digest(f'{USER}:' + local.secret('mesos/zookeeper-password'))}:cdrwa{TREES[tree]}"


def owned(said: str) -> bool:
    """Whether getAcl of one tree after the other answered what it must."""
    shown = [":".join(entry) for entry in re.findall(r"^'(\w+),'(\S+)\n: (\w+)$", said, re.MULTILINE)]
    return shown == ",".join(access(tree) for tree in TREES).split(",")


def own(facts: Mapping[str, str]) -> None:
    """Makes the trees their user's, with its present password. Raises ZooKeeperError."""
    said = command(facts, *(f"setAcl -R {tree} {access(tree)}" for tree in TREES), *(f"getAcl {tree}" for tree in TREES))
    if not owned(said):
        raise ZooKeeperError("the nodes of masters and Marathon could not be given to their user")


def claim(facts: Mapping[str, str]) -> None:
    """Makes the trees, closes all beside them, and opens this node to other hosts, once in each run. Raises ZooKeeperError."""
    if CLAIMED.exists():
        return
    made = (f"create {tree} '' {access(tree)}" for tree in TREES)
    said = command(facts, *made, *(f"setAcl {root} world:anyone:r" for root in ROOTS), *(f"getAcl {tree}" for tree in TREES))
    if not owned(said):
        own(facts)
    nft(f"delete {GATE}\n")
    local.write(CLAIMED, "")


def add(facts: Mapping[str, str]) -> None:
    """Makes this node, which must be running, a voter of the ensemble. Raises ZooKeeperError."""
    change(facts, f"-add {line(int(facts['INDEX']), facts['PRIVATE_IP'], 'participant')}")


def main(argv: Sequence[str]) -> int | str:
    try:
        return act(argv)
    except (ZooKeeperError, OSError, subprocess.SubprocessError) as problem:
        return str(problem)


def act(argv: Sequence[str]) -> int:
    facts = local.facts()
    match argv:
        case ["prepare"]:
            prepare(facts)
        case ["members"]:
            for number, (address, role) in sorted(members(facts["PRIVATE_IP"]).items()):
                print(f"control-{number}  {address}  {role}  {mode(address) or 'does not serve'}")
        case ["add"]:
            add(facts)
        case ["own"]:
            own(facts)
            print(f"{' and '.join(TREES)} are {USER}'s, with its present password")
        case ["remove", number] if number.isdecimal() and number != facts["INDEX"]:
            change(facts, f"-remove {number}")
        case _:
            print("usage: apollo zookeeper prepare | members | add | remove NUMBER (of another node) | own", file=sys.stderr)
            return 2
    return 0
