"""Simulated nodes: KWOK answers for their kubelets, and a pod on them is Ready without being run."""

from pathlib import Path

from host import run
from pki import kubectl
from processes import alive, end, start, wait_for
from settings import Settings

LABEL = "ferrum.dev/simulated-node"
PODS_A_NODE = 250
ADDRESSES = "10.245.0.0/16"  # of simulated pods, outside the range of real ones


def ensure(settings: Settings, programs: Path, count: int) -> None:
    """Has exactly `count` simulated nodes, each tainted so that only pods which tolerate it go there."""
    kubectl(settings, programs, "delete", "node", "-l", f"{LABEL}=true", "--ignore-not-found")
    if count == 0:
        end(settings, "kwok")
        (settings.run / "kwok.json").unlink(missing_ok=True)
        return
    # Every such address is this machine: a test may let one process answer for all pods; without it they refuse.
    run(*settings.enter, "ip", "route", "replace", "local", ADDRESSES, "dev", "lo")
    if not alive(settings, "kwok"):
        start(
            *[settings, "kwok", str(programs / "kwok"), f"--kubeconfig={settings.kubeconfig.parent / 'kwok'}"],
            *["--manage-all-nodes=false", f"--manage-nodes-with-label-selector={LABEL}=true"],
            f"--config={Path(__file__).with_name('stages.yaml')}",
            *[f"--cidr={ADDRESSES}", "--node-lease-duration-seconds=40"],
        )
    items = [_node(f"{settings.name}-simulated-{number}") for number in range(1, count + 1)]
    kubectl(settings, programs, "apply", "-f", "-", document={"apiVersion": "v1", "kind": "List", "items": items})
    ready = ["wait", "--for=condition=Ready", "node", "-l", f"{LABEL}=true", "--timeout=1s"]
    wait_for(settings, 60, "the simulated nodes are ready", lambda: kubectl(settings, programs, *ready))


def _node(name: str) -> dict:
    resources = {"cpu": "1000", "memory": "4Ti", "pods": str(PODS_A_NODE)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {LABEL: "true", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
        },
        "spec": {"taints": [{"key": LABEL, "value": "true", "effect": "NoSchedule"}]},
        "status": {"capacity": resources, "allocatable": resources},
    }
