"""The programs of a Kubernetes, built from the Go module proxy: no registry of images and no download page is needed.

A cold build takes about 11 minutes on 2 cores; the result is kept in the user's cache under a name made from the
versions, so that it happens once. An interrupted build goes on where it stopped.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from settings import Problem, Settings, say

KUBERNETES = "v1.34.4"  # 1.35 refuses control groups of version 1 unless told otherwise
CONTROL_PLANE = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"]
TOOLS = {  # program: (package, version)
    "etcd": ("go.etcd.io/etcd/server/v3", "v3.6.16"),
    "coredns": ("github.com/coredns/coredns", "v1.15.0"),
    "helm": ("helm.sh/helm/v3/cmd/helm", "v3.22.0"),
    "kwok": ("sigs.k8s.io/kwok/cmd/kwok", "v0.8.0"),
}


def folder(settings: Settings) -> Path:
    """Where the programs of these versions are kept."""
    versions = json.dumps([KUBERNETES, CONTROL_PLANE, TOOLS], sort_keys=True)
    return settings.cache / f"kubernetes-{KUBERNETES}-{hashlib.sha256(versions.encode()).hexdigest()[:12]}"


def ensure(settings: Settings) -> Path:
    """Builds what is missing and returns the folder. A second caller waits for the first."""
    settings.cache.mkdir(parents=True, exist_ok=True)
    with open(settings.cache / ".programs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _ensure(folder(settings))


def _ensure(out: Path) -> Path:
    missing = [name for name in [*CONTROL_PLANE, *TOOLS] if not (out / name).exists()]
    if not missing:
        return out
    if not shutil.which("go"):
        raise Problem("go is not installed (https://go.dev/dl): the cluster's programs are built with it, once")
    out.mkdir(parents=True, exist_ok=True)
    say(f"building {len(missing)} programs into {out} (once; about 11 minutes on 2 cores)")
    with tempfile.TemporaryDirectory(prefix="ferrum-cluster-") as work:
        kubernetes = [name for name in missing if name in CONTROL_PLANE]
        if kubernetes:
            _kubernetes_module(Path(work))
        for number, name in enumerate(missing, 1):
            started = time.monotonic()
            if name in CONTROL_PLANE:
                _build_control_plane(Path(work), name, out)
            else:
                _build_tool(Path(work), name, out)
            say(f"  [{number}/{len(missing)}] {name}: {time.monotonic() - started:.0f} s")
    return out


def _kubernetes_module(work: Path) -> None:
    """A module that depends on Kubernetes as published. Its own go.mod names its staging modules by relative paths,
    which only hold inside its repository; each is replaced by the published one of the same release."""
    listing = json.loads(_go(work, "mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}"))
    lines = Path(listing["Dir"], "go.mod").read_text().splitlines()
    module = ["module example.test/control-plane", next(line for line in lines if line.startswith("go "))]
    module.append(f"require k8s.io/kubernetes {KUBERNETES}")
    module += [f"tool k8s.io/kubernetes/cmd/{name}" for name in CONTROL_PLANE]
    for line in lines:
        words = line.split()
        if len(words) == 3 and words[1] == "=>" and words[2].startswith("./staging/"):
            module.append(f"replace {words[0]} => {words[0]} v0.{KUBERNETES.removeprefix('v1.')}")
    (work / "go.mod").write_text("\n".join(module) + "\n")
    _go(work, "mod", "tidy")


def _build_control_plane(work: Path, name: str, out: Path) -> None:
    version = "k8s.io/component-base/version"
    minor = KUBERNETES.split(".")[1]
    flags = f"-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
    _build(work, flags, f"k8s.io/kubernetes/cmd/{name}", out / name)


def _build_tool(work: Path, name: str, out: Path) -> None:
    package, version = TOOLS[name]
    module = work / f"tool-{name}"
    module.mkdir()
    _go(module, "mod", "init", f"example.test/{name}")
    _go(module, "get", "-tool", f"{package}@{version}")
    _build(module, "-s -w", package, out / name)


def _build(module: Path, flags: str, package: str, program: Path) -> None:
    unfinished = program.with_suffix(".unfinished")
    _go(module, "build", "-ldflags", flags, "-o", str(unfinished), package)
    unfinished.rename(program)


def _go(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -trimpath", "GOWORK": "off"}
    done = subprocess.run(["go", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise Problem(f"go {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return done.stdout
