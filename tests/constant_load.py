"""Clients that ask a server all the time, and what they lose while it stops, restarts or breaks."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

ASK = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
SECONDS_MAX = 30
# Seconds between two requests of a client.
PAUSE = 0.005


@dataclass
class Load:
    """Clients that keep their connections and clients with a connection per request, until the server refuses them.

    `lost` has a request without a response each: when its connection began, and what happened.
    """

    address: Any
    keeping: int = 8
    fresh: int = 4
    answers: int = 0
    last: int = 0  # answers that end a connection that its client would have kept
    lost: list[tuple[float, str]] = field(default_factory=list)
    is_ended: bool = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the clients, and waits for their first answers."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self.wait_for_answers()

    def stop(self) -> None:
        """Stops the clients after their running requests."""
        self.is_ended = True
        self.wait_until_refused()

    def wait_for_answers(self, number: int = 100) -> None:
        """Waits until there are this many further answers."""
        wanted, deadline = self.answers + number, time.monotonic() + SECONDS_MAX
        while self.answers < wanted:
            assert time.monotonic() < deadline, self
            time.sleep(0.01)

    def wait_until_refused(self) -> None:
        """Waits until the server accepts no connections, so that all clients have ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask(keeps=number < self.keeping) for number in range(self.keeping + self.fresh)))

    async def _ask(self, *, keeps: bool) -> None:
        while not self.is_ended:
            began = time.monotonic()
            try:
                if isinstance(self.address, str):
                    reader, writer = await asyncio.open_unix_connection(self.address)
                else:
                    reader, writer = await asyncio.open_connection(*self.address)
            except (ConnectionRefusedError, FileNotFoundError):
                return
            try:
                await self._use(reader, writer, keeps=keeps)
            except (OSError, EOFError, TimeoutError) as lost:
                self.lost.append((began, repr(lost)))
            finally:
                writer.close()

    async def _use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keeps: bool) -> None:
        """Sends requests on a connection until either side ends it."""
        while not self.is_ended and not reader.at_eof():
            writer.write(ASK)
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS_MAX)).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            assert head.startswith(b"http/1.1 200 "), head
            self.answers += 1
            if b"connection: close" in head:
                self.last += keeps
                return
            if not keeps:
                return
            await asyncio.sleep(PAUSE)
