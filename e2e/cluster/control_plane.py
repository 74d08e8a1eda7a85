"""etcd, the API server, the controllers, DNS and kube-proxy as plain processes."""

import json
from pathlib import Path

from pki import certificate, kubeconfig, kubectl
from processes import start, wait_for
from settings import API_SERVICE_ADDRESS, MARKER, NODE_ADDRESS, POD_CIDR, SERVICE_CIDR, Settings

# Requests of the cluster's own components are left out: the log answers what a program under test asks for.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {
            "level": "None",
            "users": [
                "system:apiserver",
                "system:kube-controller-manager",
                "system:kube-scheduler",
                "system:kube-proxy",
                "coredns",
                "kwok",
            ],
        },
        {"level": "Metadata"},
    ],
}
STORAGE_CLASS = "shared"
VOLUMES = 48
VOLUME_SIZE = "20Gi"


def start_api(settings: Settings, programs: Path) -> None:
    """etcd and the API server, until it is ready."""
    pki = settings.pki
    certificate(
        settings,
        "apiserver",
        "/CN=kube-apiserver",
        "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,"
        f"IP:127.0.0.1,IP:{API_SERVICE_ADDRESS},IP:{NODE_ADDRESS}",
    )
    subjects = {
        "admin": "/O=system:masters/CN=admin",
        "controller-manager": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
        "coredns": "/O=system:masters/CN=coredns",
        "kwok": "/O=system:masters/CN=kwok",
    }
    for name, subject in subjects.items():
        certificate(settings, name, subject)
        kubeconfig(settings, name)
    policy = settings.state / "audit-policy.json"
    policy.write_text(json.dumps(AUDIT_POLICY))

    start(
        *[settings, "etcd", str(programs / "etcd"), f"--data-dir={settings.state / 'etcd'}", "--unsafe-no-fsync"],
        *["--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379"],
        "--listen-peer-urls=http://127.0.0.1:2380",
    )
    start(
        *[settings, "kube-apiserver", str(programs / "kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379"],
        *["--secure-port=6443", "--bind-address=0.0.0.0", f"--advertise-address={NODE_ADDRESS}"],
        *[f"--client-ca-file={pki / 'ca.crt'}", f"--tls-cert-file={pki / 'apiserver.crt'}"],
        *[f"--tls-private-key-file={pki / 'apiserver.key'}"],
        *[f"--kubelet-client-certificate={pki / 'admin.crt'}", f"--kubelet-client-key={pki / 'admin.key'}"],
        # Names of nodes resolve nowhere; logs and exec go to their addresses.
        *[f"--kubelet-certificate-authority={pki / 'ca.crt'}", "--kubelet-preferred-address-types=InternalIP"],
        *["--service-account-issuer=https://kubernetes.default.svc"],
        *[f"--service-account-key-file={pki / 'sa.pub'}", f"--service-account-signing-key-file={pki / 'sa.key'}"],
        *[f"--service-cluster-ip-range={SERVICE_CIDR}", "--authorization-mode=Node,RBAC"],
        *["--enable-admission-plugins=NodeRestriction", "--allow-privileged=true"],
        *[f"--audit-policy-file={policy}", f"--audit-log-path={settings.audit_log}"],
        *["--audit-log-maxsize=100", "--audit-log-maxbackup=2"],
    )
    wait_for(settings, 90, "the API server is ready", lambda: kubectl(settings, programs, "get", "--raw", "/readyz"))


def start_controllers(settings: Settings, programs: Path) -> None:
    """What turns Deployments into scheduled pods. The limits are raised so that a thousand simulated pods measure the
    program under test and not these."""
    configs, pki = settings.kubeconfig.parent, settings.pki
    start(
        *[settings, "kube-controller-manager", str(programs / "kube-controller-manager")],
        *[f"--kubeconfig={configs / 'controller-manager'}", "--leader-elect=false", f"--cluster-cidr={POD_CIDR}"],
        *["--use-service-account-credentials", f"--service-account-private-key-file={pki / 'sa.key'}"],
        *[f"--root-ca-file={pki / 'ca.crt'}", "--kube-api-qps=400", "--kube-api-burst=600"],
        *["--concurrent-deployment-syncs=20", "--concurrent-replicaset-syncs=20", "--concurrent-gc-syncs=20"],
    )
    start(
        *[settings, "kube-scheduler", str(programs / "kube-scheduler"), f"--kubeconfig={configs / 'scheduler'}"],
        *["--leader-elect=false", "--kube-api-qps=400", "--kube-api-burst=600"],
    )


def start_network(settings: Settings, programs: Path) -> None:
    """kube-proxy and DNS. One of each serves all nodes, which share this namespace."""
    configs = settings.kubeconfig.parent
    start(
        *[settings, "kube-proxy", str(programs / "kube-proxy"), f"--kubeconfig={configs / 'proxy'}"],
        *[f"--hostname-override={settings.node_name(1)}", "--proxy-mode=iptables", f"--cluster-cidr={POD_CIDR}"],
        # Neither may be changed without the right capability; both have good defaults.
        *["--conntrack-max-per-core=0", "--oom-score-adj=0"],
    )
    corefile = settings.state / "Corefile"
    corefile.write_text(
        f".:53 {{\n  bind {NODE_ADDRESS}\n  errors\n  kubernetes cluster.local {{\n"
        f"    kubeconfig {configs / 'coredns'}\n  }}\n  cache 5\n}}\n"
    )
    start(settings, "coredns", str(programs / "coredns"), "-conf", str(corefile))


def create_objects(settings: Settings, programs: Path) -> None:
    """The mark of a test cluster, and volumes: folders that both nodes see, as a shared file system would be."""
    marker = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": MARKER, "namespace": "kube-system"},
        "data": {"name": settings.name},
    }
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }
    items = [marker, storage_class, *(_volume(settings, number) for number in range(1, VOLUMES + 1))]
    kubectl(settings, programs, "apply", "-f", "-", document={"apiVersion": "v1", "kind": "List", "items": items})


def _volume(settings: Settings, number: int) -> dict:
    folder = settings.state / "volumes" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)  # fsGroup does not reach host paths, and pods here are not root
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"shared-{number}"},
        "spec": {
            "capacity": {"storage": VOLUME_SIZE},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(folder)},
        },
    }
