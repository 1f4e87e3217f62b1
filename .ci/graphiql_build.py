"""Build hook: bundles GraphiQL into this package, with `.ci/explorer/build.mjs`.

That needs Node, npm and a registry. Without them the build continues, and the gateway serves a plain page instead. The
bundle is never committed. The licences of its packages are in THIRD-PARTY-LICENSES, which .ci/licenses generates.
"""

import shutil
import subprocess
from pathlib import Path
from typing import IO, Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUNDLER = Path(".ci/explorer/build.mjs")
LOG = Path("gateway/web/graphiql.log")
SECONDS = 600


class GraphiQLBuildHook(BuildHookInterface):
    """Runs for wheels and editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if not (root / BUNDLER).is_file():
            return
        if shutil.which("node") is None or shutil.which("npm") is None:
            self._warn("it needs Node and npm")
            return
        with (root / LOG).open("ab") as log:
            if version == "editable":
                # In the background: it takes half a minute, and `uv run gateway demo` in a new clone should not wait.
                # The gateway serves GraphiQL as soon as it is there.
                _start(root, log, "nice", start_new_session=True)
                return
            bundling = _start(root, log)
            try:
                status: int | None = bundling.wait(SECONDS)
            except subprocess.TimeoutExpired:
                bundling.kill()
                status = None
        if status != 0:
            self._warn(f"bundling it failed, see {LOG}")

    def _warn(self, reason: str) -> None:
        self.app.display_warning(f"GraphiQL is not included, the gateway will serve a plain page: {reason}")


def _start(root: Path, log: IO[bytes], *prefix: str, **options: Any) -> subprocess.Popen[bytes]:
    """Starts the bundler. Several at once take turns by the lock, which the first of them holds until it ends."""
    command = ["node", str(root / BUNDLER)]
    for before in (["flock", str(root / BUNDLER)], [*prefix]):
        if before and shutil.which(before[0]) is not None:
            command = [*before, *command]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
