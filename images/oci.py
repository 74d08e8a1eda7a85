"""Writes an image of one layer as an OCI archive, byte for byte the same for the same content."""

import hashlib
import io
import json
import os
import platform
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


@dataclass(frozen=True)
class File:
    """A file, a link (`link`) or, without content and link, a folder of the layer."""

    path: str
    content: bytes | None = None
    mode: int = 0o644
    link: str | None = None
    owner: int = 0


@dataclass(frozen=True)
class Image:
    name: str
    files: list[File]
    entrypoint: list[str]
    user: str
    environment: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)


def write(archive: Path, image: Image) -> str:
    """Writes the archive and returns the digest of its manifest, the one a registry would show."""
    layer = _layer(image.files)
    config = _json(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "User": image.user,
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", *image.environment],
                "Entrypoint": image.entrypoint,
                "WorkingDir": "/",
                "Labels": dict(sorted(image.labels.items())),
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "images/build.py"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    listed = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    # The first is what containerd's import reads, the second what skopeo and podman do.
    listed["annotations"] = {
        "io.containerd.image.name": image.name,
        "org.opencontainers.image.ref.name": image.name.rsplit(":", 1)[-1],
    }
    index = _json({"schemaVersion": 2, "manifests": [listed]})
    blobs = sorted((f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", blob) for blob in [layer, config, manifest])
    unfinished = archive.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, blob in [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", index), *blobs]:
            _add(tar, File("/" + name, blob))
    unfinished.rename(archive)
    return _digest(manifest)


def _layer(files: list[File]) -> bytes:
    """The files in order of their paths, after every folder above them."""
    by_path = {file.path: file for file in files}
    for file in files:
        for parent in Path(file.path).parents:
            if str(parent) != "/":
                by_path.setdefault(str(parent), File(str(parent), mode=0o755))
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(by_path):
            _add(tar, by_path[path])
    return layer.getvalue()


def _add(tar: tarfile.TarFile, file: File) -> None:
    entry = tarfile.TarInfo(file.path.lstrip("/"))
    entry.mode, entry.mtime, entry.uid, entry.gid = file.mode, EPOCH, file.owner, file.owner
    if file.link is not None:
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, file.link, 0o777
        tar.addfile(entry)
    elif file.content is None:
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    else:
        entry.size = len(file.content)
        tar.addfile(entry, io.BytesIO(file.content))


def _descriptor(media_type: str, blob: bytes) -> dict:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _json(document: dict) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
