"""A simulator of the fleet API for the demo and the tests. It shares no code with the gateway."""

from gateway.simulator.app import Simulator, list_page
from gateway.simulator.behaviours import Behaviours
from gateway.simulator.faults import Fault
from gateway.simulator.fleet import Fleet
from gateway.simulator.paging import CursorRejected
from gateway.simulator.state import READ_ONLY, Client, FleetPlan

__all__ = [
    "READ_ONLY",
    "Behaviours",
    "Client",
    "CursorRejected",
    "Fault",
    "Fleet",
    "FleetPlan",
    "Simulator",
    "list_page",
]
