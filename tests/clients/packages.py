"""The npm packages of the client tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

CLIENTS = Path(__file__).resolve().parent


def fetch_packages() -> str:
    """Installs them if they differ from the lock file, by one process at a time; returns what went wrong."""
    lock, fetched = CLIENTS / "package-lock.json", CLIENTS / "node_modules" / ".package-lock.json"  # npm writes it last
    folder = os.open(CLIENTS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if fetched.exists() and fetched.stat().st_mtime >= lock.stat().st_mtime:
            return ""
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        ended = subprocess.run(command, cwd=CLIENTS, capture_output=True, text=True, timeout=600, check=False)
        if not ended.returncode:
            return ""
        said = [line for line in ended.stderr.splitlines() if line.startswith("npm error")]
        return said[0] if said else ended.stderr[-200:] or "npm failed"
    finally:
        os.close(folder)
