"""Certificates and kubeconfigs of one cluster."""

import base64
import json
import subprocess
from pathlib import Path

from host import run
from settings import Settings

DAYS = "30"


def create_authority(settings: Settings) -> None:
    pki = settings.pki
    run(
        *["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", DAYS],
        *["-subj", f"/CN={settings.name}-ca", "-keyout", str(pki / "ca.key"), "-out", str(pki / "ca.crt")],
    )
    run("openssl", "genrsa", "-out", str(pki / "sa.key"), "2048")
    run("openssl", "rsa", "-in", str(pki / "sa.key"), "-pubout", "-out", str(pki / "sa.pub"))


def certificate(settings: Settings, name: str, subject: str, names: str = "") -> None:
    """A key and a certificate for client and server; `names` is a subjectAltName."""
    path = settings.pki / name
    run(
        *["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject],
        *["-keyout", f"{path}.key", "-out", f"{path}.csr"],
    )
    extensions = Path(f"{path}.ext")
    extensions.write_text(
        "extendedKeyUsage=serverAuth,clientAuth\n" + (f"subjectAltName={names}\n" if names else "")
    )
    run(
        *["openssl", "x509", "-req", "-in", f"{path}.csr", "-days", DAYS, "-extfile", str(extensions)],
        *["-CA", str(settings.pki / "ca.crt"), "-CAkey", str(settings.pki / "ca.key"), "-CAcreateserial"],
        *["-out", f"{path}.crt"],
    )


def kubeconfig(settings: Settings, name: str) -> Path:
    """The kubeconfig of the certificate `name`, everything embedded. JSON is YAML."""

    def embedded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    context = f"{settings.name}-test-cluster"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": context,
                "cluster": {
                    "server": "https://127.0.0.1:6443",
                    "certificate-authority-data": embedded(settings.pki / "ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": embedded(settings.pki / f"{name}.crt"),
                    "client-key-data": embedded(settings.pki / f"{name}.key"),
                },
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": name}}],
        "current-context": context,
    }
    path = settings.kubeconfig.parent / name
    path.write_text(json.dumps(document, indent=1))
    path.chmod(0o600)
    return path


def kubectl(settings: Settings, programs: Path, *arguments: str, document: object = None) -> str:
    """kubectl as the administrator, with a document on its standard input."""
    command = [*settings.enter, str(programs / "kubectl"), f"--kubeconfig={settings.kubeconfig}", *arguments]
    text = None if document is None else json.dumps(document)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout
