"""Where Mesos's programs come from, and how one is run. Only this file knows it; another scheduler needs its own file.

In this order: /opt/mesos (a build of the operator's), a container image on the host's network (mesos-images.env), /usr (the
image of the host has them, or the packages of mesos-packages.env). None of these needs the overlay.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from host.apollo import images, local
from plan import ports

OWN = Path("/opt/mesos")
USR = Path("/usr")
IMAGES = Path("/etc/apollo/mesos-images.env")
PACKAGES = Path("/etc/apollo/mesos-packages.env")
RUN = Path("/run/apollo-mesos")
WORK = "/data/mesos"
INSTALL = "/usr/local/lib/apollo/mesos-install"
# Exit status: not now, for a reason that `problem` gave. The unit tries again.
NOT_YET = 75
# Below a root of programs, and the program's name in an image; Marathon's image has an entry point of its own.
PROGRAMS = {
    "master": ("sbin/mesos-master", "mesos-master"),
    "agent": ("sbin/mesos-agent", "mesos-agent"),
    "marathon": ("bin/marathon", ""),
}
UNITS = {"master": "mesos-master.service", "marathon": "marathon.service", "agent": "mesos-agent.service"}
MASTER_PORT, AGENT_PORT, MARATHON_PORT = ports.MESOS_MASTER, ports.MESOS_AGENT, ports.MARATHON
MARATHON_SCHEDULER_PORT = ports.MARATHON_SCHEDULER
# Seconds that a server has to say how it does, and that it has for anything else.
LOOK_SECONDS, ASK_SECONDS = 3.0, 10.0
# Seconds that other hosts have at most to put an image into the stack's bucket.
TURN = 300.0


def zookeeper(facts: Mapping[str, str], path: str, login: str = "") -> str:
    """ZooKeeper's address for Mesos: the planned control nodes. Not all five that may ever be: an address without a machine is
    silent, ZooKeeper's client waits two thirds of a session's ten seconds for each, and after two the session is over.
    login: user:password."""
    planned = facts["CONTROL_ADDRESSES"].split()[: int(local.secret("control/count"))]
    places = ",".join(f"{address}:{ports.ZOOKEEPER_CLIENT}" for address in planned)
    return f"zk://{login}{'@' if login else ''}{places}/{path}"


def say(name: str, text: str) -> None:
    """Writes down what a program waits for, where apollo-check reads it."""
    local.write(RUN / f"{name}.problem", text + "\n")
    print(text, flush=True)


def problem(name: str, text: str) -> NoReturn:
    """Says why a program does not run, and ends with NOT_YET."""
    say(name, text)
    sys.exit(NOT_YET)


def complaint(name: str) -> str:
    """The reason why a program does not run, empty where none was given."""
    try:
        return (RUN / f"{name}.problem").read_text().strip()
    except FileNotFoundError:
        return ""


def image(name: str) -> str:
    """The image that the program runs from, as Docker has it here; empty where it comes from elsewhere."""
    return images.named(source(name)) if source(name) else ""


def source(name: str) -> str:
    """The image that the program comes from, as it is published."""
    if not IMAGES.exists():
        return ""
    pairs = dict(line.split("=", 1) for line in IMAGES.read_text().splitlines())
    return pairs.get(name.upper(), "").strip('"')


def own(name: str) -> bool:
    """Whether the program is from a build of the operator's."""
    return (OWN / PROGRAMS[name][0]).exists()


def fetch(name: str) -> None:
    """Gets what is not on the host yet: an image from its registry, or packages. Ends with `problem` where it cannot."""
    wanted = image(name)
    if wanted and subprocess.run(["docker", "image", "inspect", wanted], capture_output=True, check=False).returncode:
        # What a look at it finds while this lasts; after a failure its reason stays until the next one.
        say(name, complaint(name) or f"pulling {source(name)}")
        failed = pull(source(name))
        if failed:
            problem(name, f"cannot pull {source(name)}: {failed}")
    if not wanted and PACKAGES.exists() and not (USR / PROGRAMS[name][0]).exists():
        say(name, complaint(name) or "installing its package")
        done = subprocess.run([INSTALL], capture_output=True, text=True, check=False)
        if done.returncode:
            problem(name, f"cannot install Mesos: {' '.join((done.stdout + done.stderr).split())[-400:]}")


def pull(wanted: str) -> str:
    """Gives Docker an image; why that failed, empty where it did not."""
    if images.named(wanted) == wanted:
        done = subprocess.run(["docker", "pull", "-q", wanted], capture_output=True, text=True, check=False)
        return done.stderr.strip() or "docker pull failed" if done.returncode else ""
    try:
        images.load(wanted, TURN)
    except (images.Refused, OSError, ValueError, KeyError) as error:
        return str(error)
    return ""


def command(name: str, flags: Sequence[str], options: Sequence[str] = (), environment: Sequence[str] = ()) -> list[str]:
    """The command line of a program. options: of `docker run` alone. environment: names of variables that it must have."""
    below, entry = PROGRAMS[name]
    for root in (OWN,) if image(name) else (OWN, USR):
        if (root / below).exists():
            return [str(root / below), *flags]
    if not image(name):
        problem(name, f"there is no {USR / below}, no {OWN / below} and no image")
    return [
        # Not mesos-…: what is called so the agent takes for a task of its own, and an orphan is killed.
        *("docker", "run", "--rm", f"--name=apollo-{name}", "--network=host", "--log-driver=none"),
        *(f"--volume={WORK}:{WORK}", f"--volume={RUN}:{RUN}:ro"),
        *(f"--env={variable}" for variable in environment),
        # As the first process of its namespace a program without a handler of its own ignores SIGTERM.
        *(() if "--pid=host" in options else ("--init",)),
        *options,
        *((f"--entrypoint={entry}",) if entry else ()),
        *(image(name), *flags),
    ]


def start(name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> NoReturn:
    """Becomes the program."""
    (RUN / f"{name}.problem").unlink(missing_ok=True)
    if argv[0] == "docker":
        # Left over where Docker was restarted, which ends `docker run` and not the container.
        subprocess.run(["docker", "rm", "-f", f"apollo-{name}"], capture_output=True, check=False)
    libraries = {}
    if Path(argv[0]).is_relative_to(OWN):
        libraries = {"LD_LIBRARY_PATH": f"{OWN}/lib", "MESOS_NATIVE_JAVA_LIBRARY": f"{OWN}/lib/libmesos.so"}
    sys.stdout.flush()
    os.execvpe(argv[0], list(argv), {**os.environ, **libraries, **(environment or {})})


def get(
    url: str, login: str = "", body: bytes | None = None, method: str | None = None, seconds: float = ASK_SECONDS
) -> tuple[int, bytes]:
    """(status, answer) of an HTTP server. login: user:password. Raises OSError where no server answers."""
    request = urllib.request.Request(url, body, method=method)
    if body is not None:
        request.add_header("Content-Type", "application/json")
    if login:
        request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
