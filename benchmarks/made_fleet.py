"""A stub fleet API of any size with little cost, so that its client is measured and not the API itself:
`uv run python benchmarks/made_fleet.py [--vehicles 1000000] [--latency 20] [--port 8100]`.

`GET /vehicles` with `limit` or `cursor`, `/vehicles/{id}`, and `/__stats`: the calls so far, `{"total": n}`. Every one
is the same one of the simulator's, about 1.8 kB, with a number in its ids, VIN and plate; none is stored, so a million
cost as much as one. It reads no headers: it accepts any token, and has no rate limit. Under `/moving` are the same
vehicles, but the first of each response has another VIN each time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs
from urllib.request import urlopen

import httptools
import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.simulator import Behaviours, Client, FleetPlan, Simulator

VEHICLES_MAX = 1_000_000
VEHICLE_BYTES = 1800
VIN = b"WAUZZZGY4N"
MOVING = "/moving"
PAGES_REMEMBERED = 64
HEAD = (
    "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nDate: Wed, 25 Nov 2026 09:00:00 GMT\r\n"
    "X-INVERS-Flow-ID: 0d7e3a1c-5b4f-4c39-9d53-3d9f1ab0f7aa\r\n\r\n"
)


def vehicle_id(number: int) -> str:
    """The id of a vehicle, counted from 1."""
    return f"V{number:07}"


class MadeFleet:
    """Responses with their heads, as bytes."""

    def __init__(self, vehicles: int) -> None:
        self._vehicles = vehicles
        self._pieces = _template()
        self._page = lru_cache(PAGES_REMEMBERED)(self._rendered)
        self._moves = count()

    def answer_to(self, target: bytes) -> bytes:
        if target.startswith(MOVING.encode()):
            answer = self.answer_to(target[len(MOVING) :])
            return answer.replace(VIN, b"WAUZ%06d" % (next(self._moves) % 1_000_000), 1)
        path, _, query = target.partition(b"?")
        if path == b"/vehicles":
            return self._list(query)
        digits = path.removeprefix(b"/vehicles/V")
        if len(digits) == 7 and digits.isdigit() and 1 <= int(digits) <= self._vehicles:
            return _answer(digits.join(self._pieces))
        return _problem(404, "Not Found", "/problems/not-found")

    def _list(self, query: bytes) -> bytes:
        parameters = parse_qs(query.decode("ascii", "replace"))
        try:
            if "cursor" in parameters:
                position = json.loads(base64.b64decode(parameters["cursor"][0], validate=True))
                return self._page(position["k"], position["l"])
            limit = int(parameters.get("limit", ["100"])[0])
        except (binascii.Error, ValueError, KeyError, TypeError):
            return _problem(400, "Bad Request", "/problems/bad-request")
        return self._page(0, max(1, min(limit, 1000)))

    def _rendered(self, start: int, limit: int) -> bytes:
        pieces, end = self._pieces, min(start + limit, self._vehicles)
        items = b",".join([(b"%07d" % number).join(pieces) for number in range(start + 1, end + 1)])
        last = max(0, self._vehicles - 1) // limit * limit
        cursors = {
            "self": _cursor(start, limit),
            "first": _cursor(0, limit),
            "prev": _cursor(max(0, start - limit), limit) if start else None,
            "next": _cursor(end, limit) if end < self._vehicles else None,
            "last": _cursor(last, limit),
        }
        return _answer(b'{"items":[%b],"cursors":%b}' % (items, msgspec.json.encode(cursors)))


class StubProtocol(asyncio.Protocol):
    """A connection to the fleet; `latency` is in seconds."""

    calls = 0

    def __init__(self, fleet: MadeFleet, latency: float) -> None:
        self._fleet = fleet
        self._latency = latency
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_message_complete(self) -> None:
        target, self._target = self._target, b""
        if target == b"/__stats":
            self._transport.write(_answer(msgspec.json.encode({"total": StubProtocol.calls})))
            return
        StubProtocol.calls += 1
        answer = self._fleet.answer_to(target)
        if self._latency:
            self._loop.call_later(self._latency, self._write, answer)
        else:
            self._transport.write(answer)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


class FleetProcess:
    """The stub fleet as a process of its own."""

    def __init__(self, vehicles: int, latency_ms: float = 0, cpu: int | None = None) -> None:
        self.vehicles = vehicles
        options = ["--vehicles", str(vehicles), "--latency", str(latency_ms)]
        self.process = subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True)
        if cpu is not None:
            with contextlib.suppress(AttributeError, OSError):
                os.sched_setaffinity(self.process.pid, {cpu})
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def calls(self) -> int:
        """The number of calls it has received."""
        with urlopen(f"{self.url}/__stats") as answer:
            return json.load(answer)["total"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()


@contextlib.contextmanager
def made_fleet(vehicles: int, latency_ms: float = 0, cpu: int | None = None) -> Iterator[FleetProcess]:
    """A stub fleet that runs as long as the block."""
    process = FleetProcess(vehicles, latency_ms, cpu)
    try:
        yield process
    finally:
        process.stop()


def _template() -> list[bytes]:
    """A vehicle, cut where its number goes."""
    fleet = Simulator([FleetPlan(vehicles=200, clients=(Client("T7K2M#one"),))], Behaviours()).fleets["T7K2M"]
    vehicles = [fleet.shown(one, Behaviours()) for one in fleet.ids]
    usual = [one for one in vehicles if one.get("telematics_unit") and one.get("latest_state")]
    vehicle = min(usual, key=lambda one: abs(len(msgspec.json.encode(one)) - VEHICLE_BYTES))
    vehicle["id"] = "V@"
    vehicle["master_data"] |= {"vin": f"{VIN.decode()}@", "license_plate": "SI-@"}
    vehicle["telematics_unit"] |= {"id": "38429DA4@"}
    return msgspec.json.encode(vehicle).split(b"@")


def _cursor(start: int, limit: int) -> str:
    return base64.b64encode(b'{"v":1,"f":"T7K2M","k":%d,"l":%d}' % (start, limit)).decode()


def _answer(body: bytes) -> bytes:
    return (HEAD % (200, "OK", "application/json", len(body))).encode() + body


def _problem(status: int, title: str, kind: str) -> bytes:
    body = msgspec.json.encode({"type": kind, "title": title, "status": status})
    return (HEAD % (status, title, "application/problem+json", len(body))).encode() + body


async def serve(vehicles: int, latency: float, port: int) -> None:
    """Serves the fleet API until it is stopped; writes its URL; `latency` in seconds."""
    fleet = MadeFleet(vehicles)
    server = await asyncio.get_running_loop().create_server(lambda: StubProtocol(fleet, latency), "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vehicles", type=int, default=10_000, choices=range(1, VEHICLES_MAX + 1), metavar="NUMBER")
    parser.add_argument("--latency", type=float, default=0, help="milliseconds until a response is sent")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    chosen = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(chosen.vehicles, chosen.latency / 1000, chosen.port))


if __name__ == "__main__":
    main()
