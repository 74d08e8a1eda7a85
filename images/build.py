#!/usr/bin/env python3
"""Builds the images of the project as OCI archives.

With docker or buildah it builds the Dockerfiles beside this file, from source. Without any container engine it puts
the same content together from the built program and this machine's Debian packages: the program, the shared libraries
that it names, certificates of authorities, a user, an empty /tmp. That way is reproducible: the same program and
packages give the same digest.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import oci

ROOT = Path(__file__).resolve().parents[1]
USER = 65532
IMAGES = ["ferrum", "engine-cpu"]  # each has NAME.Dockerfile, and is called ferrum.dev/NAME
WITH_ENGINE = ["engine-cuda"]  # needs docker or buildah: its base has libraries of CUDA
NAMES = IMAGES + WITH_ENGINE
CERTIFICATES = Path("/usr/share/ca-certificates/mozilla")  # of the package; /etc/ssl/certs has this machine's own too
PASSWD = f"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/home/nonroot:/sbin/nologin\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; none: the first two")
    parser.add_argument("--engine", choices=["auto", "docker", "buildah", "none"], default="auto")
    parser.add_argument("--binary", type=Path, help="for --engine none; default: a release build, made now")
    parser.add_argument("--tag", default=_version())
    parser.add_argument("--out", type=Path, default=ROOT / "target/images")
    parser.add_argument("--build-base", help="image with Rust that the Dockerfiles build in")
    parser.add_argument("--base", help="image that the Dockerfiles put the program on")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in NAMES]:
        parser.error(f"{unknown[0]}: not one of {', '.join(NAMES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    engine = _engine() if arguments.engine == "auto" else arguments.engine
    if engine == "none" and (without := [name for name in arguments.names if name in WITH_ENGINE]):
        sys.exit(f"images: {without[0]} needs docker or buildah; neither is there")
    binary = arguments.binary or (_release_build() if engine == "none" else None)
    for name in arguments.names or IMAGES:
        image = f"ferrum.dev/{name}:{arguments.tag}"
        archive = arguments.out / f"{name}-{arguments.tag}.tar"
        if engine == "none":
            digest = _assemble(image, binary, archive)
        else:
            digest = _build(engine, name, image, archive, arguments)
        print(f"{image} {digest} {archive.stat().st_size / 1e6:.1f} MB {archive}")
    return 0


def _engine() -> str:
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return "docker"
    return "buildah" if shutil.which("buildah") else "none"


def _release_build() -> Path:
    if subprocess.run(["cargo", "build", "--release", "--locked", "--package", "ferrum-cli"], cwd=ROOT).returncode != 0:
        sys.exit("images: the release build failed")
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/ferrum"


def _build(engine: str, name: str, image: str, archive: Path, arguments: argparse.Namespace) -> str:
    """Builds a Dockerfile with a container engine."""
    command = [engine, "build", "--file", str(ROOT / f"images/{name}.Dockerfile"), "--tag", image]
    for key, value in [("BUILD_BASE", arguments.build_base), ("BASE", arguments.base)]:
        command += ["--build-arg", f"{key}={value}"] if value else []
    if subprocess.run([*command, str(ROOT)]).returncode != 0:
        sys.exit(f"images: {engine} could not build {name}; `--engine none` needs neither it nor a registry")
    if engine == "docker":
        subprocess.run(["docker", "save", "--output", str(archive), image], check=True)
        found = subprocess.run(
            ["docker", "image", "inspect", "--format", "{{.Id}}", image], check=True, capture_output=True, text=True
        )
        return found.stdout.strip()
    with tempfile.NamedTemporaryFile() as digest:
        target = f"oci-archive:{archive}:{image}"
        archive.unlink(missing_ok=True)  # buildah would add to it
        subprocess.run(["buildah", "push", "--quiet", "--digestfile", digest.name, image, target], check=True)
        return Path(digest.name).read_text().strip()


def _assemble(image: str, binary: Path, archive: Path) -> str:
    """Puts an image together without a container engine."""
    if not binary.exists():
        sys.exit(f"images: {binary} does not exist")
    files = [
        oci.File("/usr/local/bin/ferrum", _stripped(binary), mode=0o755),
        *(oci.File(path, content, mode=0o755) for path, content in _libraries(binary)),
        oci.File("/etc/ssl/certs/ca-certificates.crt", _certificates()),
        oci.File("/etc/passwd", PASSWD.encode()),
        oci.File("/etc/group", f"root:x:0:\nnonroot:x:{USER}:\n".encode()),
        oci.File("/etc/nsswitch.conf", b"hosts: files dns\n"),
        oci.File("/home/nonroot", mode=0o700, owner=USER),
        oci.File("/tmp", mode=0o1777),
    ]
    labels = {"org.opencontainers.image.title": image.rsplit(":", 1)[0].rsplit("/", 1)[1]}
    return oci.write(archive, oci.Image(image, files, ["ferrum"], f"{USER}:{USER}", labels=labels))


def _stripped(binary: Path) -> bytes:
    """The program without its symbols, which are three quarters of it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "ferrum"
        subprocess.run(["strip", "--strip-all", "-o", str(copy), str(binary)], check=True)
        return copy.read_bytes()


def _libraries(binary: Path) -> list[tuple[str, bytes]]:
    """What the loader would load, and the loader: at the paths where it looks for them."""
    listed = subprocess.run(["ldd", str(binary)], check=True, capture_output=True, text=True).stdout
    if "not found" in listed:
        sys.exit(f"images: a shared library of {binary} is missing here:\n{listed}")
    paths = re.findall(r"(?:=> )?(/\S+) \(0x", listed)
    return [(path, Path(path).resolve().read_bytes()) for path in sorted(set(paths))]


def _certificates() -> bytes:
    if not CERTIFICATES.is_dir():
        sys.exit(f"images: {CERTIFICATES} is missing: apt-get install ca-certificates")
    return b"".join(path.read_bytes() for path in sorted(CERTIFICATES.glob("*.crt")))


def _version() -> str:
    manifest = (ROOT / "Cargo.toml").read_text()
    return re.search(r'^version = "(.+)"', manifest, re.MULTILINE).group(1)


if __name__ == "__main__":
    sys.exit(main())
