"""Faults: rules for which requests fail, how, and how often."""

from __future__ import annotations

import email.utils
import json
import random
import re
import time
from typing import Any, Literal

import msgspec

Kind = Literal[
    "latency", "status", "rate_limit", "telematics_unit_error", "outage", "drop", "silence", "truncate", "stall",
    "slow_body", "huge_body", "malformed_json", "wrong_types", "not_an_object", "expired_cursor", "churn", "sharing",
]  # fmt: skip


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """A rule. `path` is a regular expression; `times` is the number of faults (null for no limit)."""

    kind: Kind
    path: str = ".*"
    method: str | None = None  # only requests with this method
    # The request is executed before the fault, not after it or never; for latency, status, rate_limit,
    # telematics_unit_error, outage, drop and silence. The other kinds change the response of an executed request.
    executed: bool = False
    probability: float = 1.0
    times: int | None = None
    client: str | None = None
    # Parameters of the kinds.
    # latency: before the response; silence: until the connection is closed without one; stall: in its middle;
    # slow_body: before each chunk; rate_limit: until the reset
    seconds: float = 0.05
    jitter: float = 0.0  # latency: the maximum number of additional seconds
    status: int = 503  # status: any
    type: str | None = None  # status: the problem's type; null for no problem object
    body: str | None = None  # status: sent instead of a problem
    form: Literal["reset", "retry_after", "retry_after_date"] = "reset"  # rate_limit
    megabytes: float = 40.0  # huge_body


class Faults:
    """The active rules, with a seeded random number generator."""

    def __init__(self, seed: int = 1) -> None:
        self.rules: list[Fault] = []
        self._random = random.Random(seed)

    def matching(self, path: str, client: str | None, method: str = "GET") -> list[Fault]:
        """The rules for this request. Each counts one fault."""
        matching = []
        for rule in self.rules:
            if rule.times == 0 or (rule.client and rule.client != client) or not re.search(rule.path, path):
                continue
            if rule.method not in (None, method):
                continue
            if rule.probability < 1 and self._random.random() >= rule.probability:
                continue
            if rule.times is not None:
                rule.times -= 1
            matching.append(rule)
        return matching

    def below(self, bound: int) -> int:
        """A random number from 0 up to, but not including, a bound."""
        return self._random.randrange(bound)


def rate_limit_headers(fault: Fault, limit: int) -> dict[str, str]:
    """The headers of a 429 response in the form of the rule."""
    if fault.form == "retry_after":
        return {"Retry-After": str(max(0, round(fault.seconds)))}
    if fault.form == "retry_after_date":
        return {"Retry-After": email.utils.formatdate(time.time() + fault.seconds, usegmt=True)}
    reset = int(time.time() + fault.seconds)
    return {"X-Rate-Limit-Limit": str(limit), "X-Rate-Limit-Remaining": "0", "X-Rate-Limit-Reset": str(reset)}


def corrupted(body: bytes, fault: Fault) -> bytes:
    """A response body, changed as the rule says."""
    if fault.kind == "malformed_json":
        return body[: len(body) // 2] + b'"{[,' + body[len(body) // 2 :]
    if fault.kind == "not_an_object":
        return (b"[]", b'"a text"', b"null", b"17")[len(body) % 4]
    if fault.kind == "wrong_types":
        return json.dumps(_retyped(json.loads(body), 0)).encode()
    if fault.kind == "huge_body":
        return body[:-1] + b',"padding":"' + b"x" * int(fault.megabytes * 2**20) + b'"}'
    return body


def _retyped(value: Any, depth: int) -> Any:
    """The value with some members of a wrong type; ids are unchanged."""
    if isinstance(value, list):
        return [_retyped(item, depth) for item in value]
    if not isinstance(value, dict):
        return value
    wrong: list[Any] = [17, ["list"], {"object": 1}, True, "text"]
    return {
        name: wrong[n % 5]
        if n % 3 == 1 and name not in ("id", "items", "cursors") and depth > 0
        else _retyped(inner, depth + 1)
        for n, (name, inner) in enumerate(value.items())
    }
