"""Certificates for tests over TLS, made by the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """A self-signed certificate and its key, as PEM files."""

    file: Path
    key: Path


def certificate(folder: Path, name: str) -> Certificate:
    """A certificate for `name`."""
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext subjectAltName=DNS:{name}"
    made = Certificate(folder / f"{name}.pem", folder / f"{name}-key.pem")
    subprocess.run([*command.split(), "-keyout", made.key, "-out", made.file], check=True, capture_output=True)
    return made


def server_context(server: Certificate, client: Certificate | None = None) -> ssl.SSLContext:
    """A server's TLS context; with `client` it requires that certificate of its clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*server)
    if client is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client.file)
    return context
