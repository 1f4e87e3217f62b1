"""The manifests of Kubernetes and the compose file, compared with what those systems accept, offline."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

FOLDER = Path(__file__).parent
# Those that the Kubernetes project maintains, and an older one.
VERSIONS = ["1.30", "1.35", "1.36", "1.37"]
# Their schemas come with kustomize and with the Prometheus operator.
OTHERS = {"Kustomization", "PodMonitor"}
MANIFESTS = [
    pytest.param(one, id=one["kind"])
    for path in sorted(FOLDER.glob("kubernetes/*/*.yaml"))
    for one in yaml.safe_load_all(path.read_text())
    if one["kind"] not in OTHERS
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifests_are_valid(manifest, version):
    """Without unknown members, for each version."""
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_member_is_found():
    """What the test above is for."""
    deployment = yaml.safe_load((FOLDER / "kubernetes/gateway/deployment.yaml").read_text())
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_the_compose_file_is_valid():
    """As Compose reads it; an unknown member or value is an error."""
    text = (FOLDER / "compose.yaml").read_text()
    assert "gateway" in PyCompose.from_yaml(text).service_names()
    for right, wrong in (("read_only:", "readonly:"), ("service_healthy", "service_healty"), ("50s", "50x")):
        with pytest.raises(ValueError, match=r"services\.gateway"):
            PyCompose.from_yaml(text.replace(right, wrong))
