"""A command is executed at most once for each idempotency key, and its outcome is only told if it is known.

Workers are killed between the request and the response, responses come after the time-out, callers disconnect, and Redis
is away; `--hypothesis-profile exhaustive` tries each 500 times. Afterwards each key is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
from functools import partial

import httpx
import pytest

from gateway.simulator import Behaviours, Fault, Simulator
from tests.effort import effort, thorough_only
from tests.gateway_process import GatewayProcess
from tests.gateways import serving
from tests.waiting import eventually
from tests.writes.commanding import PLAN, Answers, tries_of
from tests.writes.mutations import client_of

TRIES = effort(24, 24, 500)
BATCH = 25
TIMEOUT = 1.0  # seconds for a command
SENT = "POST /vehicles/{id}/commands/{command}"


class World:
    """A gateway with two workers and Redis over a simulator, and commands that no test has sent before."""

    def __init__(self, gateway: GatewayProcess, simulator: Simulator) -> None:
        self.gateway, self.simulator = gateway, simulator
        self._tries = tries_of(simulator)
        self.dice = random.Random(1)

    def batches(self):
        """TRIES new tries in batches."""
        tries = list(itertools.islice(self._tries, TRIES))
        return [tries[at : at + BATCH] for at in range(0, len(tries), BATCH)]

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_keepalive_connections=0)  # so that each request reaches any of the workers
        return client_of(base_url=self.gateway.url, limits=limits)

    def sent(self) -> int:
        """How many commands have reached the fleet API."""
        return self.simulator.requests.by_path[SENT]

    async def kill_workers(self) -> None:
        for pid in self.gateway.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def ready(self) -> None:
        await asyncio.to_thread(self.gateway.wait_for_workers, 2)
        await asyncio.to_thread(self.gateway.wait_until_ready)


@pytest.fixture(scope="module")
def processes(tmp_path_factory, redis_process):
    simulator = Simulator([PLAN], Behaviours(rate_limit_requests=0))
    with serving(simulator.app) as upstream:
        gateway = GatewayProcess(
            tmp_path_factory.mktemp("writes"),
            workers="2",
            writes="all",
            upstream_url=upstream,
            upstream_command_timeout=str(TIMEOUT),
            redis_url=redis_process.url,
            redis_timeout="1",
            redis_cooldown="0.2",
            limits_deadline="10",
            log_level="warning",
        )
        try:
            gateway.wait_until_ready()
            yield World(gateway, simulator)
        finally:
            gateway.stop()
    unexpected = [line for line in gateway.output.splitlines() if "Traceback" in line or "unexpected error" in line]
    assert not unexpected, "\n".join(unexpected)


@pytest.fixture
def world(processes, redis):
    """The simulator executes commands at once, without faults."""
    simulator = processes.simulator
    simulator.behaviours = Behaviours(rate_limit_requests=0)
    simulator.faults.rules = []
    yield processes
    simulator.faults.rules = []


async def send_again(world: World, answers: Answers, batch) -> None:
    """Sends each command of a batch once more, twice at the same time."""
    async with world.client() as http:
        await asyncio.gather(*(answers.send(http, attempt) for attempt in [*batch, *batch]))


def all_sent(world: World, number: int, sending: list[asyncio.Future]) -> bool:
    """Whether so many commands have reached the fleet API, but for those that have ended before."""
    return world.sent() + sum(each.done() for each in sending) >= number


async def at_rest(world: World) -> None:
    """Waits until the simulator is done with everything that it received."""
    await eventually(lambda: world.simulator.requests.in_flight == 0)


@pytest.mark.parametrize("late", ["before the execution", "after it"])
async def test_a_response_after_the_time_out_is_unknown(world, late):
    """Whether or not the command was executed meanwhile; a later one with the same key is unknown, too."""
    answers = Answers(world.simulator)
    world.simulator.faults.rules = [
        Fault("latency", path="/commands/", seconds=TIMEOUT + 0.5, executed=late == "after it")
    ]
    async with world.client() as http:
        for batch in world.batches():
            await asyncio.gather(*(answers.send(http, attempt) for attempt in batch))
            await at_rest(world)
            await send_again(world, answers, batch)
    answers.check()
    assert answers.mostly("UNKNOWN")
    assert any(map(answers.executions, answers.by_try))


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("kind", ["drop", "silence"])
async def test_a_lost_connection_is_unknown(world, kind, executed):
    """Whether or not the command was executed before."""
    answers = Answers(world.simulator)
    world.simulator.faults.rules = [Fault(kind, path="/commands/", seconds=0.1, executed=executed)]
    async with world.client() as http:
        for batch in world.batches():
            await asyncio.gather(*(answers.send(http, attempt) for attempt in batch))
            await send_again(world, answers, batch)
    answers.check()
    assert answers.mostly("UNKNOWN")
    assert any(map(answers.executions, answers.by_try)) == executed


async def test_a_caller_that_disconnects_can_ask_again(world):
    """With the same key: it gets the outcome if the gateway knows it, and no second execution."""
    answers = Answers(world.simulator)
    world.simulator.behaviours = Behaviours(rate_limit_requests=0, command_seconds=0.2)
    async with world.client() as http:
        for batch in world.batches():
            await asyncio.gather(
                *(answers.send(http, attempt, leave_after=world.dice.uniform(0.005, 0.25)) for attempt in batch)
            )
            await send_again(world, answers, batch)
            await at_rest(world)
    answers.check()


@pytest.mark.parametrize("moment", ["when all are sent", pytest.param("at any time", marks=thorough_only)])
async def test_killed_workers_leave_unknown_outcomes(world, moment):
    """Those whose command was sent are unknown afterwards, however it ended; none is executed again."""
    answers = Answers(world.simulator)
    for number, batch in enumerate(world.batches()):
        await world.ready()
        world.simulator.behaviours = Behaviours(rate_limit_requests=0, command_seconds=(0.0, 0.5)[number % 2])
        world.simulator.faults.rules = [Fault("latency", path="/commands/", seconds=TIMEOUT + 1, executed=True)]
        before = world.sent()
        async with world.client() as http:
            sending = [asyncio.ensure_future(answers.send(http, attempt)) for attempt in batch]
            if moment == "at any time":
                await asyncio.sleep(world.dice.uniform(0.0, 0.3))
            else:
                await eventually(partial(all_sent, world, before + len(batch), sending))
            await world.kill_workers()
            await asyncio.gather(*sending)
        world.simulator.faults.rules = []
        await world.ready()
        await send_again(world, answers, batch)
        await at_rest(world)
    answers.check()
    if moment != "at any time":
        assert answers.mostly("UNKNOWN")


@pytest.mark.parametrize("away", ["killed", pytest.param("stopped", marks=thorough_only)])
async def test_while_redis_is_away_no_command_is_executed_twice(world, redis, away):
    """Each is sent again meanwhile, and once more when a Redis that was stopped goes on with its data."""
    answers = Answers(world.simulator)
    world.simulator.behaviours = Behaviours(rate_limit_requests=0, command_seconds=0.05)
    for batch in world.batches():
        async with world.client() as http:
            sending = [asyncio.ensure_future(answers.send(http, attempt)) for attempt in batch]
            await asyncio.sleep(world.dice.uniform(0.0, 0.2))
            os.kill(redis.pid, signal.SIGKILL if away == "killed" else signal.SIGSTOP)
            await asyncio.gather(*sending)
            await send_again(world, answers, batch)
        await at_rest(world)
        answers.check()
        if away == "killed":
            redis.kill()
            await asyncio.to_thread(redis.start)
            await world.ready()
        else:
            os.kill(redis.pid, signal.SIGCONT)
            await world.ready()
            await send_again(world, answers, batch)
            answers.check()
