"""A fleet API that breaks HTTP: some responses are duplicate, unsolicited, late, short or long.

Every response names its caller and its request, so that a client can check whether it is its own.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.upstream.tcp_server import TCPServer

# The faults, and how many of a thousand responses have them.
FAULTS = {"twice": 10, "twice, later": 15, "unasked": 10, "late": 5, "short": 5, "cut": 5, "long": 5, "other's": 2}
LATER = 0.03  # seconds at most
LATE = 0.3  # seconds, longer than any client waits
PAGE = 3


class UnrulyFleet(TCPServer):
    """Responds for any vehicle, search and state, in the name of the caller; `responses` counts the kinds of responses."""

    def __init__(self, seed: int, faults: dict[str, int] = FAULTS) -> None:
        super().__init__()
        self.responses: Counter[str] = Counter()
        self._dice = random.Random(seed)
        self._faults = faults
        self._lately: dict[str, bytes] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        goes_on = True
        while goes_on:
            goes_on = await self._answer((await reader.readuntil(b"\r\n\r\n")).decode(), writer)

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> bool:
        """Responds in one way or another; returns whether the connection stays open."""
        target, name = head.split(" ")[1], head.partition("Bearer ")[2].partition("\r\n")[0]
        body, fault = json.dumps(self._body(target, name)).encode(), self._fault()
        response, of_others = framed(body), self._lately.get(self._dice.choice(list(self._lately) or [name]))
        self.responses[fault] += 1
        later = asyncio.get_running_loop().call_later
        if fault == "twice, later":
            later(self._dice.uniform(0, LATER), send, writer, response)
        elif fault == "unasked":
            later(self._dice.uniform(0, LATER), send, writer, of_others or response)
        elif fault == "late":
            await asyncio.sleep(LATE)
        faulty = {
            "twice": response * 2,
            "short": response[:-5],
            "cut": framed(body, -5),
            "long": framed(body, 5),
            "other's": self._lately.get(name, response) if target.startswith("/vehicles/") else response,
        }
        if not target.endswith("/latest-state"):
            self._lately[name] = response
        writer.write(faulty.get(fault, response))
        await writer.drain()
        return fault != "short" or self._dice.random() < 0.5

    def _fault(self) -> str:
        at = self._dice.randrange(1000)
        for fault, share in self._faults.items():
            at -= share
            if at < 0:
                return fault
        return "well"

    def _body(self, target: str, name: str) -> dict[str, Any]:
        path, query = urlsplit(target).path.split("/")[2:], parse_qs(urlsplit(target).query)
        if not path:
            words = query.get("q", [""])[0]
            return {"items": [vehicle(f"{words}{number}", name) for number in range(PAGE)], "cursors": {}}
        if len(path) > 1:
            return {"door": {"value": f"{name} {path[0]}"}}
        return vehicle(path[0], name)


def vehicle(vehicle_id: str, name: str) -> dict[str, str]:
    return {"id": vehicle_id, "vehicle_model_id": name}


def framed(body: bytes, short_by: int = 0) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body) - short_by}\r\n\r\n"
    return head.encode() + body


def send(writer: asyncio.StreamWriter, response: bytes) -> None:
    if not writer.is_closing():
        writer.write(response)
