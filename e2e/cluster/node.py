"""A node: a containerd and a kubelet of its own. All nodes share the machine, its namespace and one pod bridge."""

import json
import subprocess
from pathlib import Path

import host
from pki import certificate, kubeconfig, kubectl
from processes import start, wait_for
from settings import NODE_ADDRESS, PAUSE_IMAGE, Problem, Settings, node_address

GPUS = 4  # advertised on the last node, so that scheduling by GPU is real where no GPU is


def start_node(settings: Settings, programs: Path, number: int) -> None:
    """Starts node `number` (from 1) until its containerd answers; the kubelet registers by itself."""
    name, state = settings.node_name(number), settings.node_state(number)
    state.mkdir(parents=True, exist_ok=True)
    host.ensure_cgroups(name)
    certificate(
        settings, name, f"/O=system:nodes/CN=system:node:{name}", f"DNS:{name},IP:{node_address(number)}"
    )
    config = kubeconfig(settings, name)
    _write_network(settings, number)
    (state / "containerd.toml").write_text(_containerd_config(settings, number))
    start(settings, f"containerd-{number}", "containerd", "--config", str(state / "containerd.toml"))
    (state / "resolv.conf").write_text("")  # nothing outside the cluster is resolved
    (state / "kubelet.json").write_text(json.dumps(_kubelet_config(settings, number)))
    wait_for(settings, 30, f"containerd of {name} answers", lambda: ctr(settings, number, "version"))
    load(settings, number, host.pause_image(settings))
    start(
        *[settings, f"kubelet-{number}", str(programs / "kubelet"), f"--config={state / 'kubelet.json'}"],
        *[f"--kubeconfig={config}", f"--root-dir={state / 'kubelet'}", f"--hostname-override={name}"],
        f"--node-ip={node_address(number)}",
    )


def advertise_gpus(settings: Settings, programs: Path) -> None:
    """Gives the last node `nvidia.com/gpu`. The kubelet keeps resources that it does not know."""
    patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(GPUS)}]
    name = settings.node_name(settings.nodes)
    command = ["patch", "node", name, "--subresource=status", "--type=json", "-p", json.dumps(patch)]
    kubectl(settings, programs, *command)
    kubectl(settings, programs, "label", "node", name, "nvidia.com/gpu.present=true", "--overwrite")


def load(settings: Settings, number: int, archive: Path) -> None:
    """Imports an image archive into a node."""
    ctr(settings, number, "-n", "k8s.io", "images", "import", str(archive))


def ctr(settings: Settings, number: int, *command: str) -> str:
    """Runs ctr against a node's containerd."""
    full = ["ctr", "--address", str(settings.containerd_socket(number)), *command]
    done = subprocess.run(full, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise Problem(f"{' '.join(full)} failed: {done.stderr.strip()}") if "import" in command else RuntimeError(
            done.stderr.strip()
        )
    return done.stdout


def _write_network(settings: Settings, number: int) -> None:
    folder = settings.node_state(number) / "cni"
    folder.mkdir(exist_ok=True)
    addresses = {
        "subnet": "10.244.0.0/16",
        "rangeStart": f"10.244.{number}.2",
        "rangeEnd": f"10.244.{number}.250",
        "gateway": "10.244.0.1",
    }
    bridge = {
        "type": "bridge",
        "bridge": "pods0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(folder / "addresses"),
            "ranges": [[addresses]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    network = {"cniVersion": "0.4.0", "name": settings.node_name(number), "plugins": plugins}
    (folder / "10-pods.conflist").write_text(json.dumps(network))


def _containerd_config(settings: Settings, number: int) -> str:
    state = settings.node_state(number)
    return f"""version = 2
root = "{state}/containerd"
state = "{state}/containerd-run"
[grpc]
  address = "{settings.containerd_socket(number)}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE nobody may lower an oom_score_adj, and every sandbox dies with an error that hides it.
  restrict_oom_score_adj = true
  # So that they go with the state of the node.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{host.CNI_PLUGINS}"
    conf_dir = "{state}/cni"
"""


def _kubelet_config(settings: Settings, number: int) -> dict:
    name, pki = settings.node_name(number), settings.pki
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node_address(number),
        "healthzPort": 10300 + number,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "tlsCertFile": str(pki / f"{name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{name}.key"),
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(settings.node_state(number) / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{settings.containerd_socket(number)}",
        "maxPods": 200,
        # A kubelet deletes logs of pods that it does not know: two must not share the default folder.
        "podLogsDir": str(settings.node_state(number) / "pod-logs"),
        "serializeImagePulls": False,
        # The machine's disk is the owner's; a test cluster neither evicts for it nor deletes images.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
    }
