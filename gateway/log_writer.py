"""Log lines are queued in memory and written by a thread, so that whoever reads them slowly delays nothing else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, TextIO

# A pipe takes a write of no more bytes whole, whatever other processes write to it (Linux).
PIPE_BUF = 4096
# Bytes of one write where no other process writes to the same file: each write takes the interpreter's lock twice.
WRITE_BYTES = 256 * 1024
# Seconds between two looks at the queue: lines of that time are written together.
PAUSE = 0.1


class Raw(Protocol):
    """An unbuffered binary file; None in place of a number: it takes nothing at the moment."""

    def write(self, data: memoryview, /) -> int | None: ...


class LogWriter:
    """Writes lines to a text stream's file, in order, from a thread of its own.

    At most `bytes_max` bytes wait. Lines that find no room, or that the file does not take, are dropped; once writing
    works again, the line that `dropped` makes of their number is written. Where other processes write to the same file
    (`is_shared`), no write is longer than a pipe takes whole. It is a logger in structlog's sense.
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
        self._told = dropped
        self._queue: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        # Reentrant: the garbage collector may run in the middle, and what it finds may be logged.
        self._lock = threading.RLock()
        self._waiting = 0
        self._dropped = 0
        self._in_line = False  # whether the last write ended within a line
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def msg(self, text: str) -> None:
        """Queues a line, or several with line breaks between. Neither waits nor raises."""
        lines = text.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._waiting + len(lines) > self._bytes_max:
                self._dropped += lines.count(b"\n")
                return
            self._waiting += len(lines)
        self._queue.put(lines)

    def lose(self) -> None:
        """Counts a line that could not even be made."""
        with self._lock:
            self._dropped += 1

    debug = info = warning = error = critical = msg

    def flush(self, seconds: float) -> bool:
        """Waits until all that was queued before is written, at most so long; whether it is."""
        done = threading.Event()
        self._queue.put(done)
        return done.wait(seconds)

    def close(self) -> None:
        """Ends the thread once all that was queued before is written; does not wait for it."""
        self._queue.put(None)

    def _run(self) -> None:
        open_ = True
        while open_:
            found = [self._queue.get()]
            if isinstance(found[0], bytes):
                time.sleep(PAUSE)
            while not self._queue.empty():
                found.append(self._queue.get_nowait())
            for chunk in whole_lines(b"".join([item for item in found if isinstance(item, bytes)]), self._write_bytes):
                taken = self._write(chunk)
                with self._lock:
                    self._waiting -= len(chunk)
                    self._dropped += 0 if taken else chunk.count(b"\n")
            self._tell_dropped()
            for item in found:
                if isinstance(item, threading.Event):
                    item.set()
            open_ = None not in found

    def _tell_dropped(self) -> None:
        dropped = self._dropped
        if dropped and self._told is not None and self._write(self._told(dropped).encode() + b"\n"):
            with self._lock:
                self._dropped -= dropped

    def _write(self, chunk: bytes) -> bool:
        """Whether the file took all of it; waits for as long as nobody reads."""
        left = memoryview(b"\n" + chunk if self._in_line else chunk)
        try:
            while left:
                written = self._file.write(left)
                if written:
                    self._in_line = left[written - 1] != ord("\n")
                    left = left[written:]
                else:
                    time.sleep(PAUSE)
        except (OSError, ValueError):  # full or closed; ValueError: closed by this process
            return False
        return True


def whole_lines(lines: bytes, length: int) -> Iterator[bytes]:
    """Pieces of whole lines, each of as many as so many bytes hold, or of one line that is longer."""
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + length) + 1 or lines.index(b"\n", start) + 1
        yield lines[start:end]
        start = end


def _raw(stream: TextIO | None) -> Raw:
    """What lies below a stream's buffers, which Python would write when the process ends, however long that took.

    A stream that was closed when the process started is None.
    """
    binary = getattr(stream, "buffer", None)
    if binary is None:
        return Path(os.devnull).open("wb", buffering=0)
    raw: Raw = getattr(binary, "raw", binary)
    return raw


def keep_standard_descriptors() -> None:
    """Opens those of 0, 1 and 2 that are closed: else the next socket would take their number, and lines meant for
    standard error would go to a caller.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
