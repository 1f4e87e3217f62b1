"""deploy/kubernetes: its files agree with each other, with the image and with the settings.

deploy/test_schemas.py compares them with the schemas of Kubernetes.
"""

from __future__ import annotations

import re

import yaml

from gateway.settings import Settings, setting_infos
from tests.deploy.expressions import ROOT
from tests.dockerfile import arguments_of

FOLDER = ROOT / "deploy/kubernetes"
GATEWAY = FOLDER / "gateway"
OBJECTS = {one["kind"]: one for path in FOLDER.glob("*/*.yaml") for one in yaml.safe_load_all(path.read_text()) if one}
POD = OBJECTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
VARIABLES = dict(
    line.split("=", 1) for line in (GATEWAY / "gateway.env").read_text().splitlines() if not line.startswith("#")
)


def test_kustomizations_list_all_files():
    """Each manifest in a folder is applied, and each that is listed exists."""
    for folder in (GATEWAY, FOLDER / "prometheus-operator"):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        assert [name for name in listed if not (folder / name).exists()] == []
        assert {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"} <= set(listed)


def test_every_variable_is_a_setting():
    """The gateway would ignore others."""
    known = {info.variable for info in setting_infos(Settings())}
    assert {name for name in VARIABLES if not name.startswith("OTEL_")} - known == set()


def test_every_object_selects_the_pods():
    """The labels of the pods are those that each selector names."""
    text = "".join(path.read_text() for path in FOLDER.glob("*/*.yaml"))
    selectors = re.findall(r"(?:matchLabels|selector): (\{app[^}]*\})", text)
    assert len(selectors) == 7
    assert {tuple(yaml.safe_load(selector).items()) for selector in selectors} == {
        tuple(POD["metadata"]["labels"].items())
    }


def test_ports_are_those_that_the_gateway_listens_on():
    """Probes and the service use the image's port; metrics are on a port that the service does not have."""
    assert arguments_of("EXPOSE") == [str(PORTS["http"])]
    assert VARIABLES["GATEWAY_METRICS_PORT"] == str(PORTS["metrics"])
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(PORTS["metrics"])
    assert [port["targetPort"] for port in OBJECTS["Service"]["spec"]["ports"]] == ["http"]
    assert OBJECTS["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] in PORTS
    paths = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}


def test_the_grace_period_is_longer_than_stopping_takes():
    """Otherwise Kubernetes would kill a pod with running requests."""
    http = Settings(http={"shutdown_delay": float(VARIABLES["GATEWAY_HTTP_SHUTDOWN_DELAY"])}).http
    stopping = http.shutdown_delay + http.shutdown_timeout + http.shutdown_idle_timeout
    assert POD["spec"]["terminationGracePeriodSeconds"] > stopping


def test_pods_have_no_rights():
    """The restricted pod security standard: any user but root, no capabilities, and no writable file system."""
    security = CONTAINER["securityContext"]
    assert POD["spec"]["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert (security["allowPrivilegeEscalation"], security["capabilities"]) == (False, {"drop": ["ALL"]})
    assert security["readOnlyRootFilesystem"]
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_one_pod_may_be_missing():
    """There are always two, and draining a node or an upgrade takes away one at most."""
    assert OBJECTS["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2
    assert OBJECTS["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert OBJECTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert "replicas" not in OBJECTS["Deployment"]["spec"]
