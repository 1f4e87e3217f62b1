"""Fixtures of the journeys."""

from __future__ import annotations

import pytest

from tests.served_gateway import ServedGateway


@pytest.fixture
def server(serve):
    """Starts gateways behind the real server."""
    started = []

    def start(**groups) -> ServedGateway:
        started.append(ServedGateway(serve, **groups))
        return started[-1]

    yield start
    for one in started:
        one.stop()
