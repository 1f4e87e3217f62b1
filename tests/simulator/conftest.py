"""The simulated API over HTTP."""

from __future__ import annotations

import httpx
import pytest

from gateway.simulator import READ_ONLY, Behaviours, Client, FleetPlan, Simulator

OTHER_CLIENTS = (
    Client("EXFL29#cl1", token="fixed"),
    Client("EXFL29#read-only", permissions=READ_ONLY, token="read-only"),
    Client("EXFL29#no-commands", scopes=frozenset({"vehicles"}), token="no-commands"),
)


@pytest.fixture
async def api():
    """A client of the fleet T7K2M; its `simulator` has the fleet EXFL29, too."""
    simulator = Simulator([FleetPlan("T7K2M", 30), FleetPlan("EXFL29", 10, clients=OTHER_CLIENTS)])
    transport = httpx.ASGITransport(simulator.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet.test") as http:
        http.simulator = simulator
        http.headers["Authorization"] = f"Bearer {simulator.first_token()}"
        yield http


@pytest.fixture
def behave(api):
    """Switches behaviours over HTTP."""

    async def switched(**wanted) -> None:
        response = await api.patch("/__simulator/behaviours", json=wanted)
        assert response.status_code == 200, response.text
        assert Behaviours.__struct_fields__ == tuple(response.json())

    return switched
