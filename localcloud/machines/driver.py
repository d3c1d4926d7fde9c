"""Makes the machines match the cloud: what the API says is read, and whatever differs is started, stopped or rewired.

Level-triggered: reconcile() needs no memory of what was asked, so that a lost call, a killed run or a change made behind
its back is put right by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from localcloud.api.client import Aws
from localcloud.apollo import host_files
from localcloud.machines import cgroups, namespaces, wanted
from localcloud.machines.balancer import Balancers
from localcloud.machines.container import Container
from localcloud.machines.errors import MachineError
from localcloud.machines.image import PLAIN_AMI, ensure_image, ensure_plain_image
from localcloud.machines.machine import Machine
from localcloud.machines.metadata import Metadata, MetadataServer
from localcloud.machines.mirror import MirrorServer
from localcloud.machines.namespaces import Namespace
from localcloud.machines.network import INTERNET_ADDRESS, Internet, VpcNetwork
from localcloud.machines.prepare import Kind, raise_limits
from localcloud.machines.processes import Children, end_recorded
from localcloud.machines.relay import Relay, dial_from, listen_on_loopback
from localcloud.machines.security_groups import API, API_PORT, METADATA, permits
from localcloud.machines.virtual import VirtualMachine
from localcloud.machines.vm_image import ensure_disk, ensure_furnished_disk, given_disk
from localcloud.machines.volumes import Volumes
from localcloud.machines.wanted import Disk, Instance, Wanted
from localcloud.processes import wait_until

HTTP = 80


class MachineDriver:
    """The machines of one cloud. Needs root on Debian (see prepare.py).

    An instance boots from the baked image, or, where its AMI is the plain one, from one without the packages, which may be the
    user's own: it then installs them at first boot, from a repository on the internet of the hosts.

    aws: the API, with a key whose calls the API does not answer by a reconcile() of its own. run_dir: this cloud's folder; one
    driver at a time. cache: where the image is kept. binaries: finds or makes what the image gets beside its packages, consul
    and consul-template. edge_port: the port
    of 127.0.0.1 that leads to port 80 of the edge, or of the load balancer before several; 0 for any, None for none.
    kind: what makes the machines. Raises MachineError if another driver holds run_dir or the port is taken.
    """

    def __init__(
        self,
        aws: Aws,
        run_dir: Path,
        cache: Path,
        binaries: Callable[[], dict[str, Path]],
        edge_port: int | None = 8080,
        kind: Kind = "container",
    ) -> None:
        self._endpoint = aws.endpoint
        self._client = aws.client
        self._run_dir = run_dir
        self._cache = cache
        self._binaries = binaries
        self._kind: Kind = kind
        self._region = region = aws.region
        self._prefix = prefix(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._held = _hold(run_dir)
        try:
            raise_limits()
            _sweep(run_dir)
            listener = listen_on_loopback(edge_port, "the edge", "--edge-port") if edge_port is not None else None
        except MachineError:
            os.close(self._held)
            raise
        # Where 0 was given, the one that was free.
        self.edge_port: int | None = None if listener is None else listener.getsockname()[1]
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._asked = 0
        self._served = 0
        self._failures: dict[str, str] = {}
        # The plain one, and the baked one.
        self._images: dict[bool, Path] = {}
        self._mirror: MirrorServer | None = None
        self._image_lock = threading.Lock()
        self._closed = False
        # Whether there ever was an instance: until then a look at the cloud is one question, not ten.
        self._begun = False
        # While the whole stack goes, machines are switched off instead of shut down: no one is served any more, and an orderly
        # leave of one control node after the other would take a quarter of a minute.
        self.ending = False
        self._cut: set[str] = set()
        self._offered: dict[tuple[str, int], int] = {}
        self._wanted = Wanted(region)
        self._machines: dict[str, Machine] = {}
        self._networks: dict[str, VpcNetwork] = {}
        self._servers: dict[str, MetadataServer] = {}
        self._balancers = Balancers(self._prefix)
        self._children = Children(run_dir / "pids")
        self._volumes = Volumes(run_dir / "volumes")
        self._metadata = Metadata(self._client)
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="machines")
        self._relay = Relay()
        self.internet = Internet(self._prefix)
        if listener is not None:
            self._relay.add(listener, dial_from(self.internet.namespace, self._front_doors, HTTP))

    # -- what the cloud calls

    def reconcile(self) -> None:
        """Makes everything match, and returns when it does: new machines have their init running (not yet cloud-init, see
        wait_ready), stopped ones are off. Safe from any thread. Raises MachineError naming each machine that failed."""
        if failures := self.settle():
            raise MachineError("\n".join(failures.values()))

    def settle(self) -> dict[str, str]:
        """The same, and gives what failed: the reason by the instance's id, or by "" where it is the network that all share.

        Many callers wait at a time, one for each change of an `up`; a look that begins after a change sees it, so one look
        serves all that came before it.
        """
        with self._lock:
            self._asked += 1
            mine = self._asked
        with self._turn:
            if self._served < mine:
                with self._lock:
                    serving = self._asked
                try:
                    self._failures = self._reconcile()
                except MachineError as error:
                    self._failures = {"": str(error)}
                self._served = serving
            return self._failures

    def _reconcile(self) -> dict[str, str]:
        with self._lock:
            if self._closed:
                return {"": "the machine driver is closed"}
            if not self._begun and not self._any_instances():
                return {}
            self._begun = True
            self._wanted = self._read()
            for instance in self._wanted.instances.values():
                if instance.id not in self._machines:
                    self._machines[instance.id] = self._new_machine(instance)
            # Before any machine starts: what is not yet filtered must not be connected.
            self._apply()
            machines = list(self._machines.values())
        settled = zip(machines, self._pool.map(self._settled, machines), strict=True)
        failures = {machine.instance.id: error for machine, error in settled if error}
        with self._lock:
            self._apply()
            self._forget_deleted()
        return failures

    def wait_ready(self, host: str, deadline: float) -> None:
        """Returns when the host's cloud-init is through. deadline: seconds from now. Raises MachineError with cloud-init's own
        words if it failed, or with the console's last lines if the host ended or took too long."""
        machine = self._find(host)
        if not wait_until(machine.first_boot_finished, deadline, machine.look_interval):
            raise MachineError(
                f"{machine.instance.name} is not ready after {deadline:g} s; its console ends with:\n{machine.console_tail(25)}"
            )

    def ended(self, address: str) -> str:
        """Why the host at an address, private or public, has stopped though no one stopped it, with its console's last lines;
        "" where it runs or is on its way."""
        for machine in list(self._machines.values()):
            for nic in machine.instance.nics:
                if address in (str(nic.address), str(nic.public_address)) and machine.failure and not machine.running:
                    return f"{machine.instance.name} is not running: {machine.failure}"
        return ""

    def close(self) -> None:
        """Shuts every machine down and removes all but the disks."""
        with self._turn, self._lock:
            self._closed = True
            list(self._pool.map(self._off, self._machines.values()))
            self._pool.shutdown()
            self._relay.close()
            self._balancers.apply(Wanted(self._region), self._networks)
            if self._mirror:
                self._mirror.close()
            for server in self._servers.values():
                server.close()
            for network in self._networks.values():
                network.delete()
            self.internet.delete()
            self._volumes.release_all_but(set())
            cgroups.remove(self._prefix)
            self._children.close()
            os.close(self._held)

    @staticmethod
    def sweep(run_dir: Path) -> None:
        """Removes what a killed run left running or mounted, and nothing else; the disks stay. Raises MachineError if a
        driver is at work there."""
        if run_dir.is_dir():
            held = _hold(run_dir)
            try:
                _sweep(run_dir)
            finally:
                os.close(held)

    # -- what an operator calls; host: a Name or apollo:host tag, an instance id or an address

    def stop(self, host: str) -> None:
        """Stops the instance, as the API's StopInstances does. It keeps its disk."""
        self._client("ec2").stop_instances(InstanceIds=[self._find(host).instance.id])
        self.reconcile()

    def start(self, host: str) -> None:
        self._client("ec2").start_instances(InstanceIds=[self._find(host).instance.id])
        self.reconcile()

    def reboot(self, host: str) -> None:
        """Shuts the host down in order and boots it again; returns when its init runs."""
        machine = self._find(host)
        with machine.lock:
            machine.check_running()
            machine.power_off()
            self._boot(machine)

    def kill(self, host: str) -> None:
        """Ends the host at once, as a power cut does. The next reconcile() boots it again."""
        machine = self._find(host)
        with machine.lock:
            machine.pull_the_plug()

    def cut(self, host: str) -> None:
        """Drops every packet from and to the host, whose own links stay up, until heal()."""
        self._cut.add(self._find(host).instance.id)
        with self._lock:
            self._apply()

    def heal(self, host: str) -> None:
        self._cut.discard(self._find(host).instance.id)
        with self._lock:
            self._apply()

    def offer(self, host: str, port: int, far: int) -> int:
        """Leads a port of 127.0.0.1 to one of the host's own loopback, until the cloud ends, and gives it. port: 0 for any.
        MachineError: it is taken."""
        if (host, far) not in self._offered:
            listener = listen_on_loopback(port, host, "--metrics")
            self._offered[host, far] = listener.getsockname()[1]

            def dial() -> list[tuple[socket.socket, str, int]]:
                with contextlib.suppress(MachineError, OSError):
                    return [(namespaces.socket_inside(self._find(host).network()), "127.0.0.1", far)]
                return []

            self._relay.add(listener, dial)
        return self._offered[host, far]

    def command(self, host: str, argv: list[str]) -> list[str]:
        """The command line that runs argv inside as root. Raises MachineError if the host is not running."""
        return self._find(host).command(argv)

    def instance_id(self, host: str) -> str:
        return self._find(host).instance.id

    def run(self, host: str, argv: list[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a command inside as root and returns what it said. timeout: seconds, then subprocess.TimeoutExpired."""
        command = self.command(host, argv)
        deadline = time.monotonic() + timeout
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            while True:
                try:
                    said, complained = process.communicate(timeout=1)
                    return subprocess.CompletedProcess(command, process.returncode, said, complained)
                except subprocess.TimeoutExpired as error:
                    if time.monotonic() > deadline:
                        process.kill()
                        raise subprocess.TimeoutExpired(command, timeout, error.output, error.stderr) from None
                    # A host that shuts down stops its processes before it kills them, nsenter stops itself with its child,
                    # and nothing would wake it.
                    process.send_signal(signal.SIGCONT)
                except BaseException:
                    process.kill()
                    raise

    def exec(self, host: str, argv: list[str]) -> int:
        """Runs a command inside as root on this process's own terminal and returns its exit status."""
        return subprocess.call(self.command(host, argv))

    def console_tail(self, host: str, lines: int = 25) -> str:
        return self._find(host).console_tail(lines)

    def hosts(self) -> dict[str, str]:
        """Each host's name and whether it is "running" or "stopped"."""
        return {m.instance.name: "running" if m.running else "stopped" for m in self._machines.values()}

    def denied(self) -> list[str]:
        """The TCP and UDP flows that security groups refused in the last fifteen minutes, as text."""
        names = {nic.address: i.name for i in self._wanted.instances.values() for nic in i.nics}
        protocols = {6: "tcp", 17: "udp"}
        return sorted(
            f"{names.get(flow.source, str(flow.source))} -> {names.get(flow.destination, str(flow.destination))} "
            f"{protocols.get(flow.protocol, str(flow.protocol))}/{flow.port}"
            for network in self._networks.values()
            for flow in network.denied()
        )

    def drops(self, host: str) -> dict[str, int]:
        """Packets refused so far on the host's first interface, by direction."""
        nic = self._find(host).instance.primary
        return self._networks[nic.vpc_id].drops(nic)

    @property
    def ssh_prefix(self) -> tuple[str, ...]:
        """What to put in front of a command so that it runs on the administrator's computer."""
        return tuple(self.admin.command([]))

    @property
    def admin(self) -> Namespace:
        """An administrator's computer on the internet."""
        return self.internet.admin

    # -- inside

    def _read(self) -> Wanted:
        with self._answering():
            return wanted.read(self._client("ec2"), self._client("elbv2"), self._region)

    def _any_instances(self) -> bool:
        with self._answering():
            return bool(self._client("ec2").describe_instances()["Reservations"])

    @contextlib.contextmanager
    def _answering(self) -> Generator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise MachineError(f"the cloud's API at {self._endpoint} does not answer: {error}") from None

    def _find(self, host: str) -> Machine:
        machines = list(self._machines.values())
        for machine in machines:
            instance = machine.instance
            tags = dict(instance.tags)
            if host in (instance.name, tags.get("apollo:host"), instance.id, str(instance.primary.address)):
                return machine
        names = ", ".join(sorted(machine.instance.name for machine in machines)) or "none yet"
        raise MachineError(f"no host {host}; there are: {names}")

    def _new_machine(self, instance: Instance) -> Machine:
        key, folder = instance.id, self._run_dir / "machines" / instance.id

        def ended(status: int) -> None:
            self._ended_by_itself(key, status)

        if self._kind != "container":
            return VirtualMachine(
                instance,
                folder,
                self._prefix,
                self._children,
                plug=lambda: self._plug_taps(key),
                unplug=lambda: self._unplug(key),
                ended=ended,
                kvm=self._kind == "kvm",
            )
        return Container(
            instance,
            folder,
            self._prefix,
            self._children,
            plug=lambda namespace: self._plug(key, namespace),
            unplug=lambda: self._unplug(key),
            ended=ended,
            files=host_files.current(self._run_dir),
        )

    def _settled(self, machine: Machine) -> str | None:
        """Brings one machine to where it should be; the message if that failed."""
        try:
            with machine.lock:
                instance = self._wanted.instances.get(machine.instance.id)
                if instance is not None:
                    machine.instance = instance
                if instance is not None and instance.state == "running":
                    if not machine.running:
                        self._boot(machine)
                else:
                    self._off(machine)
                if instance is None:
                    machine.delete()
        except MachineError as error:
            return str(error)
        except (BotoCoreError, ClientError) as error:
            return f"{machine.instance.name}: the cloud's API at {self._endpoint} does not answer: {error}"
        return None

    def _off(self, machine: Machine) -> None:
        if self.ending:
            machine.pull_the_plug()
        else:
            machine.power_off()

    def _boot(self, machine: Machine) -> None:
        machine.start(self._image_of(machine.instance), self._disks_of(machine))

    def _image_of(self, instance: Instance) -> Path:
        plain = instance.image_id == PLAIN_AMI
        with self._image_lock:
            if plain not in self._images:
                self._images[plain] = self._make_image(plain)
            return self._images[plain]

    def _make_image(self, plain: bool) -> Path:
        parts = self._cache, self._binaries, self._children
        container = self._kind == "container"
        if not plain:
            return ensure_image(*parts) if container else ensure_disk(*parts) / "disk.raw"
        image = ensure_plain_image(*parts) if container else given_disk(self._run_dir) or ensure_furnished_disk(*parts)
        self._mirror = MirrorServer(self.internet.namespace, image / "mirror")
        return image / ("root" if container else "disk.raw")

    def _plug(self, key: str, namespace: Namespace) -> None:
        for nic in self._machines[key].instance.nics:
            self._networks[nic.vpc_id].attach(nic, namespace.name, f"eth{nic.device_index}")

    def _plug_taps(self, key: str) -> Namespace:
        nics = self._machines[key].instance.nics
        for nic in nics:
            self._networks[nic.vpc_id].attach_tap(nic)
        # EC2 has all interfaces of an instance in one VPC.
        return self._networks[nics[0].vpc_id].namespace

    def _unplug(self, key: str) -> None:
        for nic in self._machines[key].instance.nics:
            if network := self._networks.get(nic.vpc_id):
                network.detach(nic)

    def _disks_of(self, machine: Machine) -> dict[Disk, Path]:
        return {disk: self._volumes.device(disk) for disk in machine.instance.disks if disk.device}

    def _ended_by_itself(self, key: str, status: int) -> None:
        machine = self._machines.get(key)
        if machine is None or self._closed:
            return
        # A failure shows in wait_ready(), which knows why the machine ended.
        with contextlib.suppress(MachineError, BotoCoreError, ClientError):
            if status == machine.reboot_status:
                with machine.lock:
                    self._boot(machine)
            elif status == 0:
                # Powered off from inside: the instance stops, as InstanceInitiatedShutdownBehavior says by default.
                self._client("ec2").stop_instances(InstanceIds=[key])

    def _with_lingering(self) -> Wanted:
        """The snapshot plus the machines that are still shutting down: they keep their network until they are off."""
        instances = dict(self._wanted.instances)
        for key, machine in self._machines.items():
            known = all(nic.subnet_id in self._wanted.subnets for nic in machine.instance.nics)
            if machine.running and known:
                instances[key] = replace(instances.get(key, machine.instance), state="running")
        return replace(self._wanted, instances=instances)

    def _apply(self) -> None:
        """Networks, metadata and disks, from the snapshot. Holds for machines that are about to start, too."""
        state = self._with_lingering()
        vpcs = {nic.vpc_id for instance in state.instances.values() for nic in instance.nics}
        for vpc_id in sorted(vpcs - self._networks.keys()):
            self._add_network(state, vpc_id)
        for vpc_id in sorted(self._networks.keys() - vpcs):
            self._servers.pop(vpc_id).close()
            self._networks.pop(vpc_id).delete()
        self._metadata.update(state)
        for network in self._networks.values():
            links = {nic.link for i in state.instances.values() if i.id in self._cut for nic in i.nics}
            network.apply(state, links)
        # Like machines, after their rules.
        self._balancers.apply(state, self._networks)

    def _add_network(self, state: Wanted, vpc_id: str) -> None:
        folder = self._run_dir / "networks" / vpc_id
        network = VpcNetwork(state.vpcs[vpc_id], self._prefix, self.internet, self._children, folder, self._region)
        self._networks[vpc_id] = network
        self._servers[vpc_id] = MetadataServer(network.namespace.listen(str(METADATA), HTTP), self._metadata)
        endpoint = urlsplit(self._endpoint)
        address, port = socket.gethostbyname(endpoint.hostname or "127.0.0.1"), endpoint.port or HTTP
        self._relay.add(
            network.namespace.listen(str(API), API_PORT),
            lambda: [(socket.socket(socket.AF_INET, socket.SOCK_STREAM), address, port)],
        )

    def _forget_deleted(self) -> None:
        instances = self._wanted.instances
        for key, machine in list(self._machines.items()):
            if key not in instances and not machine.running:
                del self._machines[key]
        running = {m.instance.id for m in self._machines.values() if m.running}
        for machine in self._machines.values():
            if machine.running:
                machine.set_disks(self._disks_of(machine))
        self._volumes.release_all_but({d.id for d in self._wanted.disks.values() if d.instance_id in running and d.device})
        self._volumes.keep_only(set(self._wanted.disks))
        for folder in (self._run_dir / "machines").glob("i-*"):
            if folder.name not in instances and folder.name not in self._machines:
                shutil.rmtree(folder, ignore_errors=True)

    def _front_doors(self) -> list[IPv4Address]:
        # Whatever the internet may reach on port 80; the program decides which host that is, by its groups.
        state = self._wanted
        open_to_all = [nic for nic in state.nics() if permits(state, nic, "ingress", 6, INTERNET_ADDRESS, HTTP)]
        return sorted(public for nic in open_to_all if (public := state.reached_as(nic)))


def prefix(run_dir: Path) -> str:
    """What the names of this cloud's namespaces, control groups and containers begin with."""
    return "ap" + hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:6]


def _hold(run_dir: Path) -> int:
    lock = os.open(run_dir / "machines.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise MachineError(f"{run_dir}: another process is running this cloud's machines; stop it first") from None
    return lock


def _sweep(run_dir: Path) -> None:
    name = prefix(run_dir)
    end_recorded(run_dir / "pids")
    cgroups.remove(name)
    for namespace in namespaces.existing(name):
        namespaces.delete(namespace)
