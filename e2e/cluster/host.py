"""What the machine itself must have: Debian packages, a network namespace, control groups, the pause image."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from settings import NODE_ADDRESS, PAUSE_IMAGE, Problem, Settings, node_address, say

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images"))
import oci  # noqa: E402  (the writer of archives is shared with `make images`)

CNI_PLUGINS = Path("/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")
PACKAGES = {  # a program or file that must exist: the Debian package that has it
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "gcc": "gcc",
}


def ensure_packages() -> None:
    """Installs what is missing where apt can, else names it."""
    if os.geteuid() != 0:
        raise Problem("a cluster on this machine needs root (or give a KUBECONFIG of a cluster made for tests)")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = _missing_packages()
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Problem(f"not installed, and there is no apt-get here: {', '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if subprocess.run(install, env=environment, capture_output=True).returncode != 0:
        # The index of packages is often empty or old in a fresh image.
        subprocess.run(["apt-get", "update", "-qq"], env=environment, capture_output=True, check=False)
        done = subprocess.run(install, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise Problem(f"{' '.join(install)} failed:\n{done.stderr[-2000:]}")
    if still := _missing_packages():
        raise Problem(f"still missing after apt-get install: {', '.join(still)}")


def _missing_packages() -> list[str]:
    def present(needed: str) -> bool:
        return os.path.exists(needed) if needed.startswith("/") else shutil.which(needed) is not None

    return sorted({package for needed, package in PACKAGES.items() if not present(needed)})


def ensure_network(settings: Settings) -> None:
    """A network namespace of its own: no address and no iptables rule of the cluster is seen outside, and load that
    tests make reaches nothing but the cluster."""
    if not settings.netns.exists():
        run("ip", "netns", "add", settings.name)
    inside = settings.enter
    run(*inside, "ip", "link", "set", "lo", "up")
    if subprocess.run([*inside, "ip", "link", "show", "machine0"], capture_output=True).returncode != 0:
        run(*inside, "ip", "link", "add", "machine0", "type", "bridge")
    for address in [NODE_ADDRESS, *(node_address(number + 1) for number in range(settings.nodes))]:
        run(*inside, "ip", "addr", "replace", f"{address}/24", "dev", "machine0")
    run(*inside, "ip", "link", "set", "machine0", "up")
    # Without a default route the service addresses have no way out and iptables never sees them.
    run(*inside, "ip", "route", "replace", "default", "dev", "machine0")
    run(*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    # Absent where br_netfilter is; pods on one bridge then still reach services, only hairpins differ.
    subprocess.run([*inside, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"], capture_output=True)


def ensure_cgroups(node: str) -> None:
    """A root for one kubelet in every controller, so that two do not share one."""
    if (CGROUPS / "cgroup.controllers").exists():  # version 2: the kubelet turns on the controllers below
        (CGROUPS / node).mkdir(exist_ok=True)
        return
    for controller in cgroup_controllers():
        (controller / node).mkdir(exist_ok=True)
    for name in ["cpuset.cpus", "cpuset.mems"]:  # empty in a new group, which refuses every process
        (CGROUPS / "cpuset" / node / name).write_text((CGROUPS / "cpuset" / name).read_text())


def cgroup_controllers() -> list[Path]:
    """The root of each hierarchy: one for version 2, one a controller for version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if path.is_dir() and (path / "cgroup.procs").exists()]


def pause_image(settings: Settings) -> Path:
    """The archive of the container that holds a pod's network namespace."""
    archive = settings.cache / "pause-1.tar"
    if not archive.exists():
        settings.cache.mkdir(parents=True, exist_ok=True)
        program = settings.cache / "pause"
        run("gcc", "-static", "-Os", "-s", "-o", str(program), str(Path(__file__).with_name("pause.c")))
        files = [oci.File("/pause", program.read_bytes(), mode=0o755)]
        oci.write(archive, oci.Image(PAUSE_IMAGE, files, entrypoint=["/pause"], user="65535:65535"))
    return archive


def run(*command: str) -> str:
    """Runs to the end; a failure is a Problem with what the program said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Problem(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
