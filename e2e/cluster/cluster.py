#!/usr/bin/env python3
"""A real Kubernetes on one machine, in a network namespace of its own, for tests and daily work."""

import argparse
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

import control_plane
import host
import node
import pki
import processes
import programs
import simulated
import teardown
from settings import Problem, Settings, say

DESCRIPTION = """
A real Kubernetes on this machine: etcd, API server, controllers, DNS, kube-proxy and two nodes (a kubelet and a
containerd each) as plain processes in a network namespace of their own. Needs root; installs the few Debian packages
it misses; builds Kubernetes once with Go, about 11 minutes.

environment: FERRUM_CLUSTER_NAME (ferrum), FERRUM_CLUSTER_NODES (2), FERRUM_CLUSTER_STATE (/var/lib/ferrum-clusters/NAME),
FERRUM_CLUSTER_CACHE (~/.cache/ferrum/cluster). Clusters of different names live beside each other.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("programs", help="build the programs if they are not there yet, and print their folder")
    commands.add_parser("up", help="start the cluster, or find it running")
    commands.add_parser("down", help="remove everything of the cluster, also after a crash")
    commands.add_parser("status", help="say which processes run")
    load = commands.add_parser("load", help="import image archives into every node")
    load.add_argument("archive", nargs="+", type=Path)
    run = commands.add_parser("exec", help="run a command inside the namespace, with KUBECONFIG and PATH set")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    nodes = commands.add_parser("simulate", help="add N simulated nodes (KWOK), whose pods only pretend to run; 0 removes")
    nodes.add_argument("count", type=int)
    killed = commands.add_parser("kill-container", help="SIGKILL for the process of a container, on whatever node it is")
    killed.add_argument("id")
    for name, text in [("kill", "end a process of the cluster"), ("start", "start it again")]:
        commands.add_parser(name, help=text).add_argument("process")
    sent = commands.add_parser("signal", help="send a signal (STOP, CONT, TERM, ...) to a process of the cluster")
    sent.add_argument("process")
    sent.add_argument("signal")
    arguments = parser.parse_args()
    try:
        return COMMANDS[arguments.command](Settings.from_environment(), arguments)
    except Problem as problem:
        say(f"cluster: {problem}")
        return 1


def up(settings: Settings, _: argparse.Namespace) -> int:
    started = time.monotonic()

    def step(text: str) -> None:
        say(f"[{time.monotonic() - started:5.1f} s] {text}")

    with _lock(settings):
        host.ensure_packages()
        binaries = programs.ensure(settings)
        if _healthy(settings, binaries):
            step(f"cluster {settings.name} runs already")
            _print_usage(settings)
            return 0
        teardown.down(settings)  # what a crash or a reboot left
        for folder in [settings.pki, settings.logs, settings.run, settings.kubeconfig.parent]:
            folder.mkdir(parents=True)
        settings.pki.chmod(0o700)
        host.ensure_network(settings)
        pki.create_authority(settings)
        step("starting etcd and the API server")
        control_plane.start_api(settings, binaries)
        step("starting controllers, DNS and nodes")
        control_plane.start_controllers(settings, binaries)
        for number in range(1, settings.nodes + 1):
            node.start_node(settings, binaries, number)
        control_plane.start_network(settings, binaries)
        control_plane.create_objects(settings, binaries)
        # By name: `--all` is content with the nodes that have registered by then.
        nodes = [f"node/{settings.node_name(number)}" for number in range(1, settings.nodes + 1)]
        ready = ["wait", "--for=condition=Ready", *nodes, "--timeout=1s"]
        if settings.nodes:
            processes.wait_for(settings, 90, "every node is ready", lambda: pki.kubectl(settings, binaries, *ready))
            node.advertise_gpus(settings, binaries)
        (settings.state / "up").touch()
        step(f"cluster {settings.name} is up: {settings.nodes} nodes, Kubernetes {programs.KUBERNETES}")
        _print_usage(settings)
    return 0


def down(settings: Settings, _: argparse.Namespace) -> int:
    started = time.monotonic()
    if os.geteuid() != 0:
        raise Problem("needs root, as `up` does")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    with _lock(settings):
        teardown.down(settings)
    say(f"[{time.monotonic() - started:5.1f} s] cluster {settings.name} is gone")
    return 0


def status(settings: Settings, _: argparse.Namespace) -> int:
    names = processes.known(settings)
    for name in names:
        pid = processes.alive(settings, name)
        say(f"{name:26} {f'runs, process {pid}' if pid else 'does not run'}")
    return 0 if names and all(processes.alive(settings, name) for name in names) else 1


def load(settings: Settings, arguments: argparse.Namespace) -> int:
    for archive in arguments.archive:
        if not archive.exists():
            raise Problem(f"{archive}: no such file")
        started = time.monotonic()
        for number in range(1, settings.nodes + 1):
            node.load(settings, number, archive)
        say(f"loaded {archive} into {settings.nodes} nodes in {time.monotonic() - started:.1f} s")
    return 0


def execute(settings: Settings, arguments: argparse.Namespace) -> int:
    if not settings.netns.exists():
        raise Problem(f"cluster {settings.name} is not up")
    binaries = programs.folder(settings)
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "KUBECONFIG": str(settings.kubeconfig),
        "FERRUM_CLUSTER_NAME": settings.name,
        "FERRUM_CLUSTER_AUDIT_LOG": str(settings.audit_log),
        "FERRUM_CLUSTER_TOOL": str(Path(__file__).resolve()),
    }
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    command = [*settings.enter, *(argv or [os.environ.get("SHELL", "bash")])]
    os.execvpe(command[0], command, environment)


def simulate(settings: Settings, arguments: argparse.Namespace) -> int:
    simulated.ensure(settings, programs.folder(settings), arguments.count)
    return 0


def send(settings: Settings, arguments: argparse.Namespace) -> int:
    """`kill` and `signal`."""
    number = signal.SIGKILL if arguments.command == "kill" else getattr(signal, f"SIG{arguments.signal}", None)
    if number is None:
        raise Problem(f"{arguments.signal}: not the name of a signal")
    pid = processes.alive(settings, arguments.process)
    if not pid:
        raise Problem(f"{arguments.process} does not run; known are {', '.join(processes.known(settings))}")
    processes.kill(pid, number)
    return 0


def kill_container(settings: Settings, arguments: argparse.Namespace) -> int:
    for number in range(1, settings.nodes + 1):
        try:
            node.ctr(settings, number, "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", arguments.id)
            return 0
        except RuntimeError:
            continue  # of another node
    raise Problem(f"{arguments.id}: no node runs this container")


def start(settings: Settings, arguments: argparse.Namespace) -> int:
    processes.restart(settings, arguments.process)
    return 0


def build_programs(settings: Settings, _: argparse.Namespace) -> int:
    print(programs.ensure(settings))
    return 0


COMMANDS = {
    "programs": build_programs,
    "up": up,
    "down": down,
    "status": status,
    "load": load,
    "exec": execute,
    "simulate": simulate,
    "kill": send,
    "kill-container": kill_container,
    "signal": send,
    "start": start,
}


def _healthy(settings: Settings, binaries: Path) -> bool:
    names = processes.known(settings)
    if not (settings.state / "up").exists() or not all(processes.alive(settings, name) for name in names):
        return False
    try:
        return bool(pki.kubectl(settings, binaries, "get", "--raw", "/readyz"))
    except RuntimeError:
        return False


def _lock(settings: Settings):
    """One `up` or `down` of a name at a time."""
    settings.state.parent.mkdir(parents=True, exist_ok=True)
    lock = open(settings.state.parent / f".{settings.state.name}.lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _print_usage(settings: Settings) -> None:
    tool = os.path.relpath(__file__)
    say(f"  {tool} exec kubectl get nodes     (a shell inside: {tool} exec)")
    say(f"  KUBECONFIG={settings.kubeconfig}, only reachable inside {settings.netns}")


if __name__ == "__main__":
    sys.exit(main())
