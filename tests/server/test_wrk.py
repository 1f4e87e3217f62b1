"""Two workers under the load of wrk while they restart, die and stop: what it loses, and what metrics and log count."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from tests.effort import thorough_only
from tests.gateway_process import GatewayProcess
from tests.gateways import serving
from tests.programs import require
from tests.telemetry.test_metrics import Scraped
from tests.waiting import waits_until

pytestmark = thorough_only
TOKEN = "token-of-wrk"
FLEET = FleetPlan("T7K2M", 120, clients=(Client("T7K2M#wrk", token=TOKEN),))
BODY = json.dumps({"query": "query Cars { vehicles(first: 3) { nodes { vehicleId } } }"})
# Connections that are kept, and those that are opened for one request each.
KEPT, FRESH = 6, 3
COUNTED = "operation_duration_seconds_count"
REQUEST_LINE = '"event": "request"'


class Outcome(NamedTuple):
    """What a wrk process counted.

    `sent` are the requests that it began to send. `statuses` are responses that are errors. A request was sent and lost
    if `read` failed, and could not be sent if `write` did, because its connection was refused. `late` are those that took
    longer than two seconds.
    """

    sent: int
    answered: int
    statuses: int
    refused: int
    read: int
    write: int
    late: int

    def __add__(self, other: Outcome) -> Outcome:  # type: ignore[override]
        return Outcome(*(one + more for one, more in zip(self, other, strict=True)))

    @property
    def failed(self) -> int:
        """Requests that were sent, and of which no response or an error came back."""
        return self.statuses + self.read + self.late


class Wrk:
    """A wrk process on each kind of connection."""

    def __init__(self, url: str) -> None:
        program, script = require("wrk", "wrk"), Path(__file__).with_name("counting.lua")
        self.processes = []
        for connections, header in ((KEPT, {}), (FRESH, {"CONNECTION": "close"})):
            self.processes.append(
                subprocess.Popen(
                    # At a low priority: it leaves CPU time to the workers that start.
                    ["nice", program, "-t1", f"-c{connections}", "-d300s", "-s", script, f"{url}/graphql"],
                    env=os.environ | {"BODY": BODY, "TOKEN": TOKEN} | header,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def end(self) -> Outcome:
        """Ends both, and adds up what they counted; each must have got responses."""
        for process in self.processes:
            process.send_signal(signal.SIGINT)
        outputs = [process.communicate()[0] for process in self.processes]
        kept, fresh = (Outcome(**json.loads(output.rpartition("result ")[2])) for output in outputs)
        assert kept.answered > 0
        assert fresh.answered > 0
        return kept + fresh


class Gateway(GatewayProcess):
    """A gateway with two workers, and its simulator."""

    def __init__(self, folder: Path, simulator: Simulator, url: str) -> None:
        self.simulator = simulator
        super().__init__(
            folder, upstream_url=url, workers="2", metrics_port="0", cache_vehicles_ttl="600", http_shutdown_delay="1"
        )
        self.wait_until_ready()
        self.wait_for_started(2)

    def wait_for_started(self, number: int) -> None:
        """Waits until this many workers have ever started; the log is long, so it is not searched often."""
        deadline = time.monotonic() + 120
        while self.output.count('"worker started"') < number:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def logged_requests(self) -> int:
        """The number of requests in the log, once it is complete: lines are written up to 0.1 s later."""
        number, before = self.output.count(REQUEST_LINE), -1
        while number != before:
            time.sleep(0.3)
            number, before = self.output.count(REQUEST_LINE), number
        return number

    def scraped(self) -> Scraped:
        return Scraped(self.metrics())

    def wait_for_operations(self, number: float) -> None:
        """Waits until it has counted so many operations more."""
        number += self.scraped()(COUNTED)
        assert waits_until(lambda: self.scraped()(COUNTED) >= number, 60)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory) -> Iterator[Gateway]:
    """It is stopped by the last test."""
    require("wrk", "wrk")
    simulator = Simulator([FLEET], Behaviours(rate_limit_requests=0))
    with serving(simulator.app) as url:
        gateway = Gateway(tmp_path_factory.mktemp("gateway"), simulator, url)
        yield gateway
        gateway.stop()


def numbers_add_up(gateway: Gateway, before: Scraped, seen: Outcome, lost: int = 0) -> bool:
    """Whether the metrics have counted what wrk saw since `before`.

    When wrk ends, a request on each connection has no response yet, and may not have arrived. Of the responses of a
    killed worker `lost` may not be counted.
    """
    now = gateway.scraped()

    def since(name: str, /, **labels: str) -> float:
        return now(name, **labels) - before(name, **labels)

    operations = since(COUNTED, name="Cars", kind="query")
    fewest = seen.answered - lost
    return (
        fewest <= operations <= seen.sent
        and fewest <= since(COUNTED, outcome="success") <= operations
        and since(COUNTED, outcome="success") + since(COUNTED, outcome="cancelled") == operations == since(COUNTED)
        and fewest <= since("cache_reads_total", resource="response") + since("cache_reads_total", resource="vehicles")
        and since("cache_reads_total") <= seen.sent
        and now("upstream_call_duration_seconds_count") == gateway.simulator.requests.total
        and now("operation_upstream_calls_total") == gateway.simulator.requests.total
        and now("errors_total") == now("rejected_requests_total") == 0
        and now("workers") == 2
    )


def test_a_rolling_restart_loses_no_request(gateway):
    """While both workers are replaced, every request gets its response, and is counted once."""
    before, workers = gateway.scraped(), gateway.workers()
    with Wrk(gateway.url) as wrk:
        gateway.wait_for_operations(200)
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for_started(4)
        gateway.wait_for_operations(200)
        seen = wrk.end()
    assert set(gateway.workers()).isdisjoint(workers)
    assert seen.failed == seen.write == seen.refused == 0
    assert seen.sent - seen.answered <= KEPT + FRESH
    assert waits_until(lambda: numbers_add_up(gateway, before, seen)), (seen, gateway.metrics())


def test_a_killed_worker_loses_only_the_requests_on_its_open_connections(gateway):
    """It is replaced, and the other one serves meanwhile. What the killed one has counted is not lost."""
    before, started = gateway.scraped(), gateway.output.count('"worker started"')
    with Wrk(gateway.url) as wrk:
        gateway.wait_for_operations(200)
        os.kill(gateway.workers()[0], signal.SIGKILL)
        gateway.wait_for_started(started + 1)
        gateway.wait_for_operations(200)
        seen = wrk.end()
    lost = seen.read + seen.write
    assert lost <= KEPT + FRESH
    assert seen.failed == seen.read
    assert seen.refused == 0
    assert seen.sent - seen.answered - lost <= KEPT + FRESH
    assert waits_until(lambda: numbers_add_up(gateway, before, seen, lost)), (seen, gateway.metrics())
    assert gateway.scraped()("worker_restarts_total") - before("worker_restarts_total") == 1
    assert gateway.scraped()("events_total", event="worker ended") - before("events_total", event="worker ended") == 1


def test_a_stopping_gateway_answers_all_that_was_sent(gateway):
    """wrk connects again until it is refused, but loses no request; the log has a line for each response."""
    logged = gateway.logged_requests()
    with Wrk(gateway.url) as wrk:
        gateway.wait_for_operations(200)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(60) == 0
        seen = wrk.end()
    assert seen.failed == 0
    assert seen.sent - seen.answered == seen.write  # on connections that were refused
    assert gateway.output.count(REQUEST_LINE) - logged == seen.answered
