"""Build hook: fetches the files of GraphiQL and React from npm packages into this package.

It fetches them with `npm pack`, which runs no scripts, and checks their SHA-384. They are never committed. Without npm
or a registry the build continues, and the gateway serves a plain page instead. Their licences are in
THIRD-PARTY-LICENSES, which .ci/licenses generates.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Package, file, SHA-384 of the file. GraphiQL 3 and React 18 are the last versions with prebuilt browser files.
FILES = [
    (
        "graphiql@3.8.3",
        "graphiql.min.js",
        "1db4551051b42462597801c227d5e6dbeb69927050ed06663653bf0e066d919d1a252ca94fde9860644da1df7d97d21e",
    ),
    (
        "graphiql@3.8.3",
        "graphiql.min.css",
        "32adef6d1058ef58df8d002dfc3723c54218637de4b1a978720751b7d53f84d3ef1c109a4f625f27f3d34623ca7f468c",
    ),
    (
        "react@18.2.0",
        "umd/react.production.min.js",
        "b4c1fc87704611219c912015199f364fd9fdd33b4d5f1bddc2f74ce94a11e7a71871ffb48865c1962276f43fb067fc7c",
    ),
    (
        "react-dom@18.2.0",
        "umd/react-dom.production.min.js",
        "6e6ecc9f3bcafbeca44b0549dadca7484e5345d37ec4be35f28b04545d8313f2ff81f5878fdd49d92a617b9f36075061",
    ),
]
# The day after GraphiQL was published. It bundles dependencies in the versions of that day, which .ci/licenses and
# .ci/advisories use.
BUILT = "2025-06-17"
FOLDER = Path("gateway/web/graphiql")
# Short timeouts, for builds without a network.
PATIENCE = ["--fetch-retries=1", "--fetch-timeout=20000"]


class GraphiQLBuildHook(BuildHookInterface):
    """Runs for wheels and editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root) / FOLDER
        try:
            fetch(folder)
        except (OSError, subprocess.SubprocessError, ValueError) as failed:
            self.app.display_warning(f"GraphiQL is not included, the gateway will serve a plain page: {failed}")


def fetch(folder: Path) -> None:
    """Fetches missing and changed files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [entry for entry in FILES if not _is_right(folder / Path(entry[1]).name, entry[2])]
    if not missing:
        return
    if shutil.which("npm") is None:
        raise ValueError("npm is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        for package in dict.fromkeys(package for package, _, _ in missing):
            command = ["npm", "pack", package, "--silent", "--ignore-scripts", *PATIENCE, "--pack-destination", scratch]
            packed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            with tarfile.open(Path(scratch) / packed.stdout.split()[-1]) as archive:
                for name in (name for other, name, _ in missing if other == package):
                    member = archive.extractfile(f"package/{name}")
                    if member is None:
                        raise ValueError(f"{package} has no {name}")
                    (folder / Path(name).name).write_bytes(member.read())
    for package, name, digest in missing:
        if not _is_right(folder / Path(name).name, digest):
            (folder / Path(name).name).unlink()
            raise ValueError(f"{name} of {package} has an unexpected SHA-384")


def _is_right(file: Path, digest: str) -> bool:
    return file.exists() and hashlib.sha384(file.read_bytes()).hexdigest() == digest
