"""Takes a cluster away, also one that crashed half-way: processes, mounts, control groups, namespace, files."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import host
from processes import end, kill, known
from settings import Settings


def down(settings: Settings) -> None:
    """Removes everything of this cluster and nothing else; nothing to remove is fine."""
    for name in known(settings):  # first those that would start something again
        if not name.startswith("containerd-"):
            end(settings, name)
    _end_pods(settings)
    for name in known(settings):
        end(settings, name)
    _end_shims(settings)
    _end_pods(settings)
    _unmount(settings)
    _remove_cgroups(settings)
    _remove_network_results(settings)
    _remove_log_links(settings)
    if settings.netns.exists():
        subprocess.run(["ip", "netns", "delete", settings.name], capture_output=True, check=False)
    shutil.rmtree(settings.state, ignore_errors=True)


def _end_pods(settings: Settings) -> None:
    """Every process of a pod is in the control groups below its node's, whatever else was lost."""
    deadline = time.monotonic() + 10
    while pids := {pid for group in _cgroups(settings) for pid in _members(group)}:
        for pid in pids:
            kill(pid)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)


def _end_shims(settings: Settings) -> None:
    """Shims outlive their containerd by design; each carries its socket's path in its command line."""
    ours = str(settings.state).encode() + b"/node-"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"containerd-shim" in command[0] and any(argument.startswith(ours) for argument in command):
            kill(int(process.name))
    for address in settings.state.glob("node-*/containerd-run/io.containerd.runtime.v2.task/*/*/address"):
        Path(address.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)


def _unmount(settings: Settings) -> None:
    prefix = f"{settings.state}/"
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(prefix)), reverse=True):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)


def _cgroups(settings: Settings) -> list[Path]:
    """The control groups of the nodes and below, the deepest first."""
    groups = []
    for controller in host.cgroup_controllers():
        for root in controller.glob(f"{settings.name}-node-[0-9]"):
            groups += [Path(path) for path, _, _ in os.walk(root, topdown=False)]
    return groups


def _members(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _remove_cgroups(settings: Settings) -> None:
    deadline = time.monotonic() + 5
    while groups := _cgroups(settings):
        for group in groups:
            try:
                group.rmdir()
            except OSError:  # a process that was killed is still leaving
                time.sleep(0.05)
        if time.monotonic() > deadline:
            break


def _remove_network_results(settings: Settings) -> None:
    """The network library keeps a file for each pod of its own accord; those of loopback are named by the pod alone."""
    results = Path("/var/lib/cni/results")
    ours = list(results.glob(f"{settings.name}-node-[0-9]-*"))
    for pod in settings.state.glob("node-*/containerd/io.containerd.runtime.v2.task/k8s.io/*"):
        ours.append(results / f"cni-loopback-{pod.name}-lo")
    for result in ours:
        result.unlink(missing_ok=True)


def _remove_log_links(settings: Settings) -> None:
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{settings.state}/"):
            link.unlink(missing_ok=True)
