"""What can be set about a test cluster, and the places that follow from it."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

NODE_ADDRESS = "192.0.2.10"  # of the machine inside the namespace; node N has the last number + N
POD_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
PAUSE_IMAGE = "ferrum.dev/pause:1"
MARKER = "ferrum-test-cluster"  # a ConfigMap of kube-system: by it the tests know that they may break this cluster


class Problem(Exception):
    """A message for a person; nothing else is printed."""


@dataclass(frozen=True)
class Settings:
    """One cluster. Everything it owns carries its name, so that several can live beside each other."""

    name: str
    nodes: int
    state: Path
    cache: Path

    @staticmethod
    def from_environment() -> "Settings":
        name = os.environ.get("FERRUM_CLUSTER_NAME", "ferrum")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
            raise Problem(f"FERRUM_CLUSTER_NAME={name}: at most 20 of a-z, 0-9 and -, the first a letter")
        nodes = os.environ.get("FERRUM_CLUSTER_NODES", "2")
        if nodes not in [str(number) for number in range(10)]:
            raise Problem(f"FERRUM_CLUSTER_NODES={nodes}: a number from 0 to 9")
        user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return Settings(
            name=name,
            nodes=int(nodes),
            # Short, because it holds sockets, whose paths are limited to 107 bytes.
            state=Path(os.environ.get("FERRUM_CLUSTER_STATE", f"/var/lib/ferrum-clusters/{name}")).absolute(),
            cache=Path(os.environ.get("FERRUM_CLUSTER_CACHE", user_cache / "ferrum" / "cluster")).absolute(),
        )

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def run(self) -> Path:
        """One file for each process that was started."""
        return self.state / "run"

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator, for people and tests."""
        return self.state / "kubeconfig" / "admin"

    @property
    def audit_log(self) -> Path:
        return self.logs / "audit.jsonl"

    @property
    def netns(self) -> Path:
        return Path("/run/netns") / self.name

    @property
    def enter(self) -> list[str]:
        """Prefix of every command of the cluster. Not `ip netns exec`, which hides /sys/fs/cgroup."""
        return ["nsenter", f"--net={self.netns}"]

    def node_name(self, number: int) -> str:
        return f"{self.name}-node-{number}"

    def node_state(self, number: int) -> Path:
        return self.state / f"node-{number}"

    def containerd_socket(self, number: int) -> Path:
        return self.node_state(number) / "containerd.sock"


def node_address(number: int) -> str:
    prefix, last = NODE_ADDRESS.rsplit(".", 1)
    return f"{prefix}.{int(last) + number}"


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
