"""Hosts that really boot: what a packet, a disk and a metadata request meet, and what is left when they are gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest

from localcloud import paths
from localcloud.api.client import Aws
from localcloud.machines import image, namespaces
from localcloud.machines.cgroups import hierarchies
from localcloud.machines.driver import MachineDriver, prefix
from localcloud.machines.errors import MachineError
from tests.host.support import free_ports, until
from tests.localcloud.support import processes

from .conftest import BOOT, REGION, Lab

pytestmark = pytest.mark.machines

TOKEN = (
    "T=$(curl -sf -m5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token); "
    'metadata() { curl -sf -m5 -H "X-aws-ec2-metadata-token: $T" http://169.254.169.254/latest/$1; }; '
)
ECHO = "import socket\ns = socket.socket(2, 2)\ns.bind(('', {port}))\nwhile True: s.sendto(*s.recvfrom(99))"
ASK = """import socket
s = socket.socket(2, 2); s.settimeout(0.3); s.bind(('', 6000)); answers = 0
for _ in range(5):
    s.sendto(b'x', ('{address}', {port}))
    try: s.recv(9); answers += 1
    except TimeoutError: pass
print(answers)"""


def said(lab: Lab, host: str, script: str) -> str:
    done = lab.driver.run(host, ["bash", "-c", script])
    assert done.returncode == 0, f"{host}: {script}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def pings(lab: Lab, host: str, address: str, *options: str) -> bool:
    # The answer to the first one may be late, on a busy machine.
    return lab.driver.run(host, ["ping", "-c3", "-W1", *options, address]).returncode == 0


def answers(lab: Lab, address: str, port: int) -> int:
    return int(said(lab, "one", f'python3 -c "{ASK.format(address=address, port=port)}"'))


def test_a_host_boots_from_its_own_user_data_through_the_ec2_data_source(lab: Lab) -> None:
    assert said(lab, "one", "cat /etc/apollo/proof") == "from user-data"
    assert "DataSourceEc2Local" in said(lab, "one", "cat /run/cloud-init/result.json")
    assert "10.2.0.1/16" in said(lab, "one", "ip -br address show weave")
    bridge = '{{.IPAM.Config}} {{index .Options "com.docker.network.bridge.name"}}'
    assert (
        said(lab, "one", f"docker network inspect bridge -f '{bridge}'") == "[{10.2.0.0/16 10.2.1.0/24 10.2.0.1 map[]}] weave"
    )
    assert said(lab, "one", "systemctl --failed --no-legend") == ""


def test_its_address_mtu_and_resolver_come_over_dhcp(lab: Lab) -> None:
    assert "10.0.0.33/19" in said(lab, "one", "ip address show eth0")
    assert "mtu 9001" in said(lab, "one", "ip link show eth0")
    assert said(lab, "one", "ip route show default") == "default via 10.0.0.1 dev eth0"
    assert said(lab, "one", "hostname -f") == "ip-10-0-0-33.eu-west-1.compute.internal"
    assert said(lab, "one", "getent hosts ip-10-0-0-34.eu-west-1.compute.internal").startswith("10.0.0.34")


def test_neighbours_are_reached_at_full_mtu_through_the_router_and_share_no_broadcast(lab: Lab) -> None:
    assert pings(lab, "one", "10.0.0.34", "-M", "do", "-s", "8973")
    assert "ttl=63" in said(lab, "one", "ping -c1 -W1 10.0.0.34")
    listener = "import socket; s = socket.socket(2, 2); s.bind(('', 7000)); s.settimeout(2); s.recv(9)"
    with subprocess.Popen(lab.driver.command("two", ["python3", "-c", listener]), stderr=subprocess.DEVNULL) as heard:
        shout = "import socket; s = socket.socket(2, 2); s.setsockopt(1, 6, 1); s.sendto(b'x', ('10.0.31.255', 7000))"
        said(lab, "one", f'for n in 1 2 3 4 5 6 7 8; do python3 -c "{shout}"; sleep 0.2; done')
        assert heard.wait() != 0, "a broadcast of one reached two"


def test_a_flow_that_no_group_admits_is_dropped_and_listed(lab: Lab) -> None:
    assert pings(lab, "edge", "10.0.0.33")
    assert not pings(lab, "one", "10.0.224.11")
    assert lab.driver.drops("edge")["ingress"] > 0
    assert answers(lab, "10.0.0.34", 5999) == 0
    assert "one -> two udp/5999" in lab.driver.denied()


def test_an_address_without_a_machine_is_as_silent_as_a_dropped_packet(lab: Lab) -> None:
    # In the own subnet, and in one that is behind the router for sure.
    for address in ("10.0.0.99", "10.0.224.99"):
        dial = f"import socket; socket.create_connection(('{address}', 2181), 2)"
        assert said(lab, "one", f'python3 -c "{dial}" 2>&1 | tail -1') == "TimeoutError: timed out", address
        assert said(lab, "one", f"ping -c1 -W1 {address} | grep -c Unreachable || true") == "0", address


def test_a_rule_is_applied_and_revoked_while_the_flow_runs(lab: Lab) -> None:
    said(lab, "two", f'systemd-run -q --unit=echo python3 -c "{ECHO.format(port=5000)}"')
    assert answers(lab, "10.0.0.34", 5000) == 0
    lab.open(lab.group, "udp", (5000, 5000), source=lab.group)
    lab.driver.reconcile()
    until(lambda: answers(lab, "10.0.0.34", 5000) == 5, "the rule is applied")
    lab.shut(lab.group, "udp", (5000, 5000), source=lab.group)
    lab.driver.reconcile()
    assert answers(lab, "10.0.0.34", 5000) == 0


def test_a_host_cannot_send_from_an_address_that_is_not_its_own(lab: Lab) -> None:
    said(lab, "one", "ip address add 10.0.0.99/32 dev lo")
    assert not pings(lab, "one", "10.0.0.34", "-I", "10.0.0.99")
    said(lab, "one", "ip address del 10.0.0.99/32 dev lo")


def test_metadata_needs_a_token_and_tells_zone_tags_and_addresses(lab: Lab) -> None:
    url = "http://169.254.169.254/latest/meta-data/"
    assert said(lab, "one", f"curl -s -m5 -o /dev/null -w '%{{http_code}}' {url}") == "401"
    facts = "metadata meta-data/placement/availability-zone; echo; metadata meta-data/tags/instance/Name; echo; "
    assert said(lab, "one", f"{TOKEN} {facts} metadata meta-data/local-ipv4").split() == ["eu-west-1a", "one", "10.0.0.33"]
    assert said(lab, "edge", f"{TOKEN} metadata meta-data/public-ipv4") == "203.0.113.10"
    assert said(lab, "two", f"{TOKEN} metadata user-data").startswith("#cloud-config\nwrite_files:")


def test_a_container_behind_the_hosts_bridge_gets_no_token(lab: Lab) -> None:
    said(
        lab,
        "one",
        "ip netns add inner; ip link add inner0 type veth peer name eth0 netns inner; ip link set inner0 master weave up; "
        "ip -n inner address add 10.2.1.200/16 dev eth0; ip -n inner link set eth0 up; "
        "ip -n inner route add default via 10.2.0.1",
    )
    try:
        # The way out works, by Docker's masquerading; only the answer with the token does not arrive.
        assert said(lab, "one", "ip netns exec inner ping -c1 -W1 10.0.0.34 >/dev/null && echo reached") == "reached"
        ask = "curl -s -m3 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token"
        assert lab.driver.run("one", ["bash", "-c", f"ip netns exec inner {ask}"]).stdout == ""
    finally:
        said(lab, "one", "ip link delete inner0; ip netns delete inner")


# A call that is signed with the credentials of the host's role, for the service $S.
SIGNED = (
    f"{TOKEN} C=$(metadata meta-data/iam/security-credentials/$(metadata meta-data/iam/security-credentials/)); "
    "field() { python3 -c 'import functools as f, json, sys;print(f.reduce(dict.get, sys.argv[1:], json.load(sys.stdin)))' "
    '"$@"; }; '
    "signed() { curl -s -m5 --aws-sigv4 aws:amz:eu-west-1:$S "
    '--user "$(field AccessKeyId <<<$C):$(field SecretAccessKey <<<$C)" '
    '-H "X-Amz-Security-Token: $(field Token <<<$C)" "$@" http://169.254.169.250:4566/; }; '
)


def test_the_hosts_role_reads_a_secret_with_a_signed_request(lab: Lab) -> None:
    lab.client("ssm").put_parameter(Name="/apollo/secret", Value="s3cret", Type="SecureString")
    fetch = (
        f'{SIGNED} S=ssm; signed -H "X-Amz-Target: AmazonSSM.GetParameter" -H "Content-Type: application/x-amz-json-1.1" '
        '-d \'{"Name":"/apollo/secret","WithDecryption":true}\' | field Parameter Value'
    )
    assert said(lab, "one", fetch) == "s3cret"


def test_a_host_reaches_nothing_of_what_drives_the_cloud(lab: Lab) -> None:
    for path in ("", "moto-api/reset", "moto-api/data.json", "apollo-cloud/machine", "latest/meta-data/"):
        post = "curl -s -m5 -o /dev/null -w '%{http_code}' -X POST -d Action=DescribeVpcs"
        assert said(lab, "one", f"{post} http://169.254.169.250:4566/{path}") == "403"
    host = lab.driver.instance_id("two")
    end = f"{SIGNED} S=ec2; signed -d 'Action=TerminateInstances&InstanceId.1={host}&Version=2016-11-15'"
    assert "AccessDenied" in said(lab, "one", end)
    assert lab.driver.hosts()["two"] == "running"


def test_the_internet_reaches_port_80_of_the_edge_and_nothing_else(lab: Lab) -> None:
    said(lab, "edge", "systemd-run -q --unit=web python3 -m http.server 80 -d /etc/apt")
    said(lab, "edge", "systemd-run -q --unit=closed python3 -m http.server 8000 -d /etc/apt")

    def status(address: str) -> str:
        curl = ["curl", "-s", "-m2", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}/"]
        return subprocess.run(lab.driver.admin.command(curl), capture_output=True, text=True, check=False).stdout

    until(lambda: status("203.0.113.10") == "200", "port 80 answers")
    assert status("203.0.113.10:8000") == "000"
    assert status("10.0.224.11") == "000"
    with urllib.request.urlopen(f"http://127.0.0.1:{lab.edge_port}/", timeout=10) as page:
        assert b"sources.list" in page.read()


def test_a_private_host_is_seen_on_the_internet_as_its_nat_gateway(lab: Lab) -> None:
    script = "import socket; s = socket.create_server(('198.51.100.10', 8001)); print(s.accept()[1][0], flush=True)"
    with subprocess.Popen(
        lab.driver.admin.command([sys.executable, "-c", script]), stdout=subprocess.PIPE, text=True
    ) as server:
        until(lambda: "8001" in lab.driver.admin.run(["ss", "-Htln"]), "the server listens")
        said(lab, "one", "exec 3<>/dev/tcp/198.51.100.10/8001")
        assert server.stdout is not None
        assert server.stdout.read().strip() == "203.0.113.1"


def test_this_machine_itself_has_no_route_to_the_hosts(lab: Lab) -> None:
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in routes.splitlines() if line.startswith(("10.0.", "10.2.", "100.64.", "203.0.113.", "198.51."))]
    assert lab.driver.hosts() == {"one": "running", "two": "running", "edge": "running"}


def test_a_volume_appears_while_the_host_runs_keeps_its_data_and_goes(lab: Lab) -> None:
    instance = lab.driver.instance_id("two")
    volume = lab.ec2.create_volume(AvailabilityZone="eu-west-1a", Size=1)["VolumeId"]
    lab.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    lab.driver.reconcile()
    said(lab, "two", "mkfs.ext4 -q /dev/sdf && mount /dev/sdf /mnt && echo kept >/mnt/file && umount /mnt")
    by_id = f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}"
    assert said(lab, "two", f"readlink -f {by_id}") == "/dev/sdf"
    lab.ec2.detach_volume(VolumeId=volume, InstanceId=instance)
    lab.driver.reconcile()
    assert said(lab, "two", "ls /dev | grep -c sd || true") == "0"
    lab.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdg")
    lab.driver.reconcile()
    assert said(lab, "two", "mount /dev/sdg /mnt && cat /mnt/file && umount /mnt") == "kept"
    lab.ec2.detach_volume(VolumeId=volume, InstanceId=instance)
    lab.ec2.delete_volume(VolumeId=volume)
    lab.driver.reconcile()
    assert not list((lab.run_dir / "volumes").glob("*"))
    assert str(lab.run_dir) not in subprocess.run(["losetup", "-l"], capture_output=True, text=True, check=True).stdout


def test_a_volumes_loop_device_ends_with_its_last_user_however_that_ends(lab: Lab, tmp_path: Path) -> None:
    del lab  # this machine has what it takes

    def there() -> bool:
        shown = ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"]
        return str(tmp_path) in subprocess.run(shown, capture_output=True, text=True, check=True).stdout

    script = f"""
import time
from pathlib import Path
from localcloud.machines.volumes import Volumes
from localcloud.machines.wanted import Disk
kept = Volumes(Path({str(tmp_path)!r}))
print(kept.device(Disk("vol-1", 1, None, "/dev/sdf")), flush=True)
kept.device(Disk("vol-1", 2, None, "/dev/sdf"))
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        device = process.stdout.readline().strip()
        size = ["blockdev", "--getsize64", device]
        until(lambda: int(subprocess.run(size, capture_output=True, check=True).stdout) == 2 << 30, "the device has grown")
        user = os.open(device, os.O_RDONLY)
        try:
            process.kill()
            process.wait()
            assert there()
        finally:
            os.close(user)
    until(lambda: not there(), "the loop device is gone")


def test_a_cut_host_is_silent_until_it_is_healed(lab: Lab) -> None:
    lab.driver.cut("two")
    assert not pings(lab, "one", "10.0.0.34")
    lab.driver.heal("two")
    until(lambda: pings(lab, "one", "10.0.0.34"), "two answers again")


def test_a_host_keeps_its_disk_over_reboot_stop_and_start(lab: Lab) -> None:
    said(lab, "two", "echo kept >/root/file")
    lab.driver.reboot("two")
    lab.driver.wait_ready("two", BOOT)
    assert said(lab, "two", "cat /root/file") == "kept"
    lab.driver.stop("two")
    assert lab.driver.hosts()["two"] == "stopped"
    with pytest.raises(MachineError, match="two is not running"):
        lab.driver.run("two", ["true"])
    lab.driver.start("two")
    lab.driver.wait_ready("two", BOOT)
    assert said(lab, "two", "cat /root/file") == "kept"
    assert pings(lab, "one", "10.0.0.34")


def test_a_host_that_reboots_itself_comes_back_and_one_that_powers_off_is_stopped(lab: Lab) -> None:
    boot = said(lab, "two", "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f22 /proc/1/stat")
    lab.driver.run("two", ["systemctl", "reboot"])

    def back() -> bool:
        with contextlib.suppress(MachineError, AssertionError):
            return said(lab, "two", "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f22 /proc/1/stat") != boot
        return False

    until(back, "two has booted again")
    lab.driver.wait_ready("two", BOOT)
    lab.driver.run("two", ["systemctl", "poweroff"])

    def state() -> str:
        reply = lab.ec2.describe_instances(InstanceIds=[lab.driver.instance_id("two")])
        return reply["Reservations"][0]["Instances"][0]["State"]["Name"]

    until(lambda: state() == "stopped", "the API knows that two is stopped")
    lab.driver.start("two")
    lab.driver.wait_ready("two", BOOT)


def test_a_host_killed_from_outside_says_so_and_boots_again(lab: Lab) -> None:
    record = lab.run_dir / "machines" / lab.driver.instance_id("two") / "machine.json"
    os.kill(json.loads(record.read_text())["leader"], signal.SIGKILL)

    def complaint() -> str:
        with pytest.raises(MachineError) as caught:
            while True:
                lab.driver.wait_ready("two", 5)
        return str(caught.value)

    until(lambda: "two is not running: the machine ended by itself" in complaint(), "its end is said")
    # What whoever dials it is told; nobody is told of hosts that are well.
    assert lab.driver.ended("10.0.0.34") == f"two is not running: {complaint().partition(': ')[2]}"
    assert lab.driver.ended("10.0.0.33") == lab.driver.ended("203.0.113.10") == ""
    lab.driver.reconcile()
    assert lab.driver.ended("10.0.0.34") == ""
    lab.driver.wait_ready("two", BOOT)


@pytest.fixture
def third(lab: Lab) -> Generator[str]:
    """The name of a host that the test launches; gone afterwards."""
    yield "third"
    lab.ec2.terminate_instances(InstanceIds=[lab.driver.instance_id("third")])
    lab.driver.reconcile()


@pytest.mark.parametrize(
    ("user_data", "words"),
    [
        ("#cloud-config\nruncmd: [\n", "Failed loading yaml blob"),
        ("#cloud-config\nwrite_files: 3\n", "write_files: 3 is not of type 'array'"),
        ("#cloud-config\nruncmd:\n - [sh, -c, 'echo oh dear >&2; exit 3']\n", "oh dear"),
        ("no header\n", "Unhandled non-multipart"),
    ],
)
def test_user_data_that_cloud_init_rejects_fails_with_its_words(lab: Lab, third: str, user_data: str, words: str) -> None:
    lab.launch(third, lab.private, "10.0.0.40", user_data, [lab.group])
    lab.driver.reconcile()
    with pytest.raises(MachineError) as caught:
        lab.driver.wait_ready(third, BOOT)
    assert str(caught.value).startswith("third: cloud-init failed: ")
    assert words in str(caught.value)


def test_a_terminated_host_leaves_nothing_and_its_address_serves_again(lab: Lab) -> None:
    for _ in range(2):
        instance = lab.launch("fourth", lab.private, "10.0.0.41", "#cloud-config\n{}\n", [lab.group])
        lab.driver.reconcile()
        until(lambda: pings(lab, "one", "10.0.0.41"), "the host answers")
        lab.ec2.terminate_instances(InstanceIds=[instance])
        lab.driver.reconcile()
        assert "fourth" not in lab.driver.hosts()
        assert not leftovers(lab.run_dir, instance)


def test_a_first_boot_installs_the_packages_and_starts_no_daemon(lab: Lab, third: str) -> None:
    lab.launch(third, lab.private, "10.0.0.42", first_boot_user_data("edge"), [lab.group], plain=True)
    lab.driver.reconcile()
    lab.driver.wait_ready(third, 2 * BOOT)
    assert said(lab, third, "consul version | head -n1") == "Consul v1.19.2"
    assert set(said(lab, third, "apt-mark showhold").split()) == {"consul", "consul-template", "haproxy"}
    assert said(lab, third, "systemctl is-active haproxy dnsmasq consul || true").split() == ["inactive"] * 3
    assert said(lab, third, "systemctl is-enabled haproxy dnsmasq || true").split() == ["disabled"] * 2
    assert said(lab, third, "ls /usr/sbin/policy-rc.d 2>/dev/null || true") == ""
    # All is there now: a second run needs neither the repository nor a way to it.
    lab.driver.cut(third)
    said(lab, third, "timeout 50 /usr/local/lib/apollo/provision edge")
    lab.driver.heal(third)


def first_boot_user_data(role: str) -> str:
    """cloud-config that carries the installation's script and lists, and runs it as the hosts' first boot does."""
    lists = [image.PACKAGES / f"{name}.txt" for name in ("base", role, "hashicorp")]
    files = {image.PROVISION: "provision", **{path: f"packages/{path.name}" for path in lists}}
    config = {
        "write_files": [
            {"path": f"/usr/local/lib/apollo/{place}", "permissions": "0755", "content": source.read_text()}
            for source, place in files.items()
        ],
        "runcmd": [f"set -a; . /etc/default/apollo-provision; /usr/local/lib/apollo/provision {role}"],
    }
    return "#cloud-config\n" + json.dumps(config)


def leftovers(run_dir: Path, part: str) -> list[str]:
    """What still carries this text in its name: namespaces, control groups, mounts, processes, folders."""
    found = [name for name in namespaces.existing(prefix(run_dir)) if part in name]
    for root in hierarchies():
        found += [str(path) for path in (root / prefix(run_dir)).rglob("*") if path.is_dir() and part in path.name]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if part in line]
    found += [str(path) for path in (run_dir / "machines").glob(f"*{part}*")]
    return found + processes(lambda line, _: part in line)


def test_a_second_driver_is_refused_and_so_is_a_port_that_is_taken(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="another process is running this cloud's machines"):
        lab.new_driver()
    with pytest.raises(MachineError, match=f"port {lab.edge_port} of 127.0.0.1 cannot be taken"):
        MachineDriver(Aws(lab.endpoint, REGION, lab.machines), tmp_path, paths.cache_dir(), dict, edge_port=lab.edge_port)


def test_machines_die_with_a_killed_driver_and_the_next_one_clears_up(lab: Lab) -> None:
    run_dir = paths.cache_dir() / "tests" / "killed"
    script = (
        "import os, sys; from pathlib import Path; from localcloud import paths\n"
        "from localcloud.machines.orders import binaries\n"
        "from localcloud.api.client import Aws, Keys; from localcloud.machines.driver import MachineDriver\n"
        "aws = Aws(sys.argv[1], 'eu-west-1', Keys(os.environ['KEY'], os.environ['SECRET']))\n"
        "MachineDriver(aws, Path(sys.argv[2]), paths.cache_dir(), binaries, edge_port=int(sys.argv[3])).reconcile()\n"
        "print('booted', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", script, lab.endpoint, str(run_dir), str(*free_ports(1))]
    env = {**os.environ, "KEY": lab.machines.id, "SECRET": lab.machines.secret}
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=env, cwd=paths.REPOSITORY) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "booted\n"
        os.kill(driver.pid, signal.SIGKILL)
    name = prefix(run_dir)
    until(lambda: not processes(lambda line, _: name in line), "the machines die")
    assert namespaces.existing(name), "nothing was left to clear up"
    MachineDriver.sweep(run_dir)
    assert namespaces.existing(name) == []
    assert [root for root in hierarchies() if (root / name).exists()] == []
    assert pings(lab, "one", "10.0.0.34"), "the sweep touched another cloud's machines"


def test_an_image_build_that_is_killed_leaves_nothing_that_passes_for_an_image(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from localcloud.machines.image import ensure_image\n"
        "from localcloud.machines.processes import Children\n"
        "ensure_image(Path(sys.argv[1]), lambda: {'consul': Path('/bin/true')}, Children(Path(sys.argv[1]) / 'pids'))"
    )
    images = tmp_path / image.IMAGES
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=paths.REPOSITORY) as builder:
        # Far enough for the bootstrap to have mounted its own /proc and started apt.
        until(lambda: any(images.glob("building-*/var/lib/dpkg")), "the build is under way")
        builder.kill()
    until(lambda: not processes(lambda line, _: str(images) in line), "the build ends")
    assert [path.name for path in images.iterdir() if path.is_dir() and not path.name.startswith("building-")] == []
    image.sweep_unfinished(images)
    assert not list(images.glob("building-*"))
