"""HTTP calls to the fleet API."""

from gateway.import_blocking import blocked

with blocked("rich"):  # httpx would import its command line, and with it half of what colours a terminal
    import httpx as _  # noqa: F401 - imported here, before any module imports it as usual
