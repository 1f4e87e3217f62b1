"""Writes log lines from a queue in a thread, so that a slow reader does not block the event loop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, TextIO

# Writes of up to this size to a pipe are atomic (Linux).
PIPE_BUF = 4096
# Bytes per write if no other process writes to the same file. Each write acquires the GIL again.
WRITE_BYTES = 256 * 1024
# Seconds in which lines are collected and then written together.
PAUSE = 0.1


class Raw(Protocol):
    """An unbuffered binary file; `write` returns None if it would block."""

    def write(self, data: memoryview, /) -> int | None: ...


class LogWriter:
    """Writes lines to the file of a text stream, in order, in a thread of its own. It is a logger for structlog.

    At most `bytes_max` bytes are queued. Lines beyond that, and lines that can't be written, are dropped; later the
    line that `dropped` returns for their number is written. If other processes write to the same file (`is_shared`),
    writes are small enough to be atomic.
    """

    def __init__(
        self,
        stream: TextIO | None,
        bytes_max: int,
        dropped: Callable[[int], str] | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        self._file = _raw(stream)
        self._write_bytes = PIPE_BUF if is_shared else WRITE_BYTES
        self._bytes_max = bytes_max
        self._dropped_line = dropped
        self._queue: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        # Reentrant, because the garbage collector may run while the lock is held, and finalizers may log.
        self._lock = threading.RLock()
        self._waiting = 0
        self.dropped = self._unreported = 0  # lines
        self._in_line = False  # whether the last write ended in the middle of a line
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def msg(self, text: str) -> None:
        """Queues a line, or several separated by line breaks. Never blocks or raises."""
        lines = text.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._waiting + len(lines) > self._bytes_max:
                self._drop(lines.count(b"\n"))
                return
            self._waiting += len(lines)
        self._queue.put(lines)

    def lose(self) -> None:
        """Counts a line that could not be formatted."""
        with self._lock:
            self._drop(1)

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._unreported += lines

    debug = info = warning = error = critical = msg

    def flush(self, seconds: float) -> bool:
        """Waits until all queued lines are written, at most `seconds`; returns whether they are."""
        done = threading.Event()
        self._queue.put(done)
        return done.wait(seconds)

    def close(self) -> None:
        """Ends the thread once all queued lines are written, without waiting for it."""
        self._queue.put(None)

    def _run(self) -> None:
        is_open = True
        while is_open:
            items = [self._queue.get()]
            if isinstance(items[0], bytes):
                time.sleep(PAUSE)
            while not self._queue.empty():
                items.append(self._queue.get_nowait())
            for chunk in whole_lines(b"".join([item for item in items if isinstance(item, bytes)]), self._write_bytes):
                is_written = self._write(chunk)
                with self._lock:
                    self._waiting -= len(chunk)
                    self._drop(0 if is_written else chunk.count(b"\n"))
            self._report_dropped()
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()
            is_open = None not in items

    def _report_dropped(self) -> None:
        dropped = self._unreported
        if dropped and self._dropped_line is not None and self._write(self._dropped_line(dropped).encode() + b"\n"):
            with self._lock:
                self._unreported -= dropped

    def _write(self, chunk: bytes) -> bool:
        """Writes a chunk and returns whether that succeeded. Blocks while nobody reads."""
        remaining = memoryview(b"\n" + chunk if self._in_line else chunk)
        try:
            while remaining:
                written = self._file.write(remaining)
                if written:
                    self._in_line = remaining[written - 1] != ord("\n")
                    remaining = remaining[written:]
                else:
                    time.sleep(PAUSE)
        except (OSError, ValueError):  # full or closed; ValueError if this process closed it
            return False
        return True


def whole_lines(lines: bytes, length: int) -> Iterator[bytes]:
    """Splits at line breaks into pieces of up to `length` bytes; a longer line is a piece of its own."""
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + length) + 1 or lines.index(b"\n", start) + 1
        yield lines[start:end]
        start = end


def _raw(stream: TextIO | None) -> Raw:
    """The unbuffered file of a stream: at exit Python would flush a buffer, however long that took.

    `stream` is None if it was closed when the process started.
    """
    binary = getattr(stream, "buffer", None)
    if binary is None:
        return Path(os.devnull).open("wb", buffering=0)
    raw: Raw = getattr(binary, "raw", binary)
    return raw


def keep_standard_descriptors() -> None:
    """Opens the standard descriptors that are closed.

    Otherwise the next socket would get the number of standard error, and log lines would be sent to a client.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
