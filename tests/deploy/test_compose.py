"""deploy/compose.yaml: its services find each other, and the files that they mount exist.

deploy/test_schemas.py reads it as Compose does.
"""

from __future__ import annotations

import subprocess
from urllib.parse import urlsplit

import yaml

from gateway.settings import Settings, setting_infos
from tests.deploy.expressions import ROOT
from tests.programs import require

FOLDER = ROOT / "deploy"
SERVICES = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
VARIABLES = SERVICES["gateway"]["environment"]


def read(name: str):
    return yaml.safe_load((FOLDER / "compose" / name).read_text())


def test_mounted_files_and_build_folders_exist():
    """Docker would make a folder of a missing file."""
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
    built = [service["build"] for service in SERVICES.values() if "build" in service]
    assert len(mounted) == 6
    assert [path for path in [*mounted, *built] if not (FOLDER / path).exists()] == []
    assert {(FOLDER / path / "Dockerfile").is_file() for path in built} == {True}
    used = {path for path in mounted if path.startswith("./compose/")}
    assert used == {f"./compose/{path.name}" for path in (FOLDER / "compose").iterdir()}


def test_every_variable_is_a_setting():
    """The gateway would ignore others."""
    known = {info.variable for info in setting_infos(Settings())}
    assert {name for name in VARIABLES if not name.startswith("OTEL_")} - known == set()


def test_services_name_each_other_and_the_right_ports():
    """Each address in the files is that of a service, on the port that it listens on."""
    assert SERVICES["simulator"]["command"][-1] == str(urlsplit(VARIABLES["GATEWAY_UPSTREAM_URL"]).port)
    (scraped,) = read("prometheus.yaml")["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"gateway:{VARIABLES['GATEWAY_METRICS_PORT']}"]}]
    listens = read("collector.yaml")["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    collector = urlsplit(VARIABLES["OTEL_EXPORTER_OTLP_ENDPOINT"])
    assert listens == f"0.0.0.0:{collector.port}"
    (source,) = read("grafana-datasource.yaml")["datasources"]
    urls = [VARIABLES["GATEWAY_UPSTREAM_URL"], VARIABLES["GATEWAY_REDIS_URL"], collector.geturl(), source["url"]]
    assert {urlsplit(url).hostname for url in urls} <= SERVICES.keys()
    (dashboards,) = read("grafana-dashboards.yaml")["providers"]
    assert f"./grafana:{dashboards['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


def test_prometheus_reads_its_file(tmp_path):
    """With the rules beside it, as they are mounted."""
    for source in ("compose/prometheus.yaml", "prometheus/rules.yaml"):
        (tmp_path / source.rpartition("/")[2]).write_bytes((FOLDER / source).read_bytes())
    command = [require("promtool", "prometheus"), "check", "config", tmp_path / "prometheus.yaml"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_gateway_can_write_nothing_and_has_time_to_stop():
    """As in Kubernetes."""
    gateway = SERVICES["gateway"]
    assert (gateway["read_only"], gateway["cap_drop"]) == (True, ["ALL"])
    http = Settings().http
    assert int(gateway["stop_grace_period"].removesuffix("s")) > http.shutdown_timeout + http.shutdown_idle_timeout
