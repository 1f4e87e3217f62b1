"""Writes of several gateways that share a Redis: what one writes, the others know at once."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.simulator import Behaviours, Simulator
from tests.gateways import PLANS
from tests.journeys.test_writes import READS, codes, command, executions, sent, update
from tests.waiting import eventually


@pytest.fixture
async def pair(start, redis):
    """Two gateways over one fleet API and one Redis."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    settings = {
        "writes": "all", "redis__url": redis.url, "redis__cooldown": 0.2, "redis__timeout": 1.0,
        "cache__enabled": True, "cache__responses": True,
    }  # fmt: skip
    first = await start(simulator=simulator, **settings)
    url = first.app.graphql._settings.upstream.url  # they are in front of the same fleet API
    gateways = [first, await start(simulator=simulator, **settings, upstream__url=url)]
    for gateway in gateways:
        await listening(gateway)
    return gateways


async def listening(gateway):
    """Waits until a gateway knows the writes of others."""
    await eventually(lambda: gateway.app.graphql.runtime.client.changes._knows_others)


async def test_a_write_is_in_the_next_read_of_another_process(pair):
    """By id, in lists, in `nodes`, in `_entities` and in cached responses, without a pause."""
    one, other = pair
    for number in range(10):
        writing, reading = (one, other) if number % 2 else (other, one)
        for query in READS.values():
            for _ in range(2):
                await reading.data(query)
        before = reading.simulator.requests.total
        for query in READS.values():
            await reading.data(query)
        assert reading.simulator.requests.total == before
        await update(writing, f"k{number}", tags=[f"tag-{number}"])
        for name, query in READS.items():
            assert f"tag-{number}" in json.dumps(await reading.data(query)), name


async def test_a_key_is_used_once_by_all_processes(pair):
    """One of them sends the command; the others wait for its outcome, also afterwards."""
    one, other = pair
    one.simulator.behaviours.command_seconds = 0.3
    outcomes = await asyncio.gather(*(command(gateway) for gateway in (one, other) * 3))
    assert {outcome["outcome"] for outcome in outcomes} == {"EXECUTED"}
    assert (await command(other))["outcome"] == "EXECUTED"
    assert executions(one) == 1
    given = {"vehicleId": "JQ7RP", "command": "LOCK_CENTRAL_LOCK", "idempotencyKey": "k1"}
    query = "mutation($input: SendVehicleCommandInput!) { sendVehicleCommand(input: $input) { outcome } }"
    answer = await other.ask(query, input=given)
    assert answer["errors"][0]["extensions"]["code"] == "IDEMPOTENCY_KEY_REUSED"


async def test_nothing_is_sent_without_redis(pair, redis):
    """It is a coded error; once Redis is back, the same key runs."""
    one, _ = pair
    redis.kill()
    query = "mutation($input: SendVehicleCommandInput!) { sendVehicleCommand(input: $input) { outcome } }"
    given = {"vehicleId": "JQ7RP", "command": "UNLOCK_CENTRAL_LOCK", "idempotencyKey": "k1"}
    answer = await one.ask(query, input=given)
    extensions = answer["errors"][0]["extensions"]
    assert (extensions["code"], extensions["retryable"]) == ("WRITES_UNAVAILABLE", True)
    assert sent(one) == 0
    redis.start()
    async with asyncio.timeout(30):
        while "errors" in (answer := await one.ask(query, input=given)):  # another kept connection may be lost
            assert answer["errors"][0]["extensions"]["retryable"]
            await asyncio.sleep(0.1)
    assert answer["data"]["sendVehicleCommand"]["outcome"] == "EXECUTED"
    assert executions(one) == 1


async def test_redis_may_go_away_while_a_command_is_under_way(pair, redis):
    """The caller gets the outcome; it is recorded as soon as Redis is back, and nothing cached is used meanwhile."""
    one, other = pair
    await other.data(READS["vehicle"])
    one.simulator.behaviours.command_seconds = 0.5
    commanded = asyncio.create_task(command(one))
    await eventually(lambda: sent(one) > 0)
    redis.kill()
    assert (await commanded)["outcome"] == "EXECUTED"
    await eventually(lambda: not other.app.graphql.runtime.client.changes._knows_others)
    before = other.simulator.requests.total
    await other.data(READS["vehicle"])
    assert other.simulator.requests.total == before + 1
    redis.start()
    await listening(other)
    await eventually(lambda: not one.app.graphql.runtime.client.writer.records._retries)
    assert (await command(other))["outcome"] == "EXECUTED"
    assert executions(one) == 1


async def test_versions_lose_no_update(pair):
    """Editors at both gateways add a tag each, and try again after a conflict: all tags are there in the end."""
    query = 'query { vehicle(id: "JQ7RP") { version tags } }'

    async def add(number):
        gateway, by = pair[number % 2], ("alice", "bob")[number % 3 % 2]
        for attempt in range(50):
            read = (await gateway.data(query, by))["vehicle"]
            given = {"ifVersion": read["version"], "tags": [*read["tags"], f"t{number}"]}
            payload = await update(gateway, f"{number}-{attempt}", by, **given)
            if payload["outcome"] == "EXECUTED":
                return
            assert codes(payload) == ["CONFLICT"]
        raise AssertionError

    await update(pair[0], "start", tags=[])
    await asyncio.gather(*map(add, range(8)))
    tags = (await pair[1].data(query))["vehicle"]["tags"]
    assert sorted(tags) == [f"t{number}" for number in range(8)]
