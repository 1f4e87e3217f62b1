"""Names of hosts in one spelling, whoever wrote them: a caller in `Host`, or an operator in a setting."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

# RFC 3986 allows more in a name; no host is called so, and proxies disagree about what it means.
_HOST = re.compile(
    r"(?:(?P<name>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?|\[(?P<address>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{0,5}))?"
)
# Longer than any name of DNS with a port.
_LENGTH_MAX = 270
_PORT_MAX = 65535
# What the older standard, which Python has, writes otherwise than today's.
_DISPUTED = frozenset("ßς\u200c\u200d")


def host_and_port(value: bytes) -> tuple[str, int | None] | None:
    """Name and port of a `Host` field's value; None where it is none.

    The name is in lower case and without a final dot, an IPv6 address in its shortest form and in brackets.
    """
    return _host_and_port(value) if len(value) <= _LENGTH_MAX else None


@lru_cache(256)
def _host_and_port(value: bytes) -> tuple[str, int | None] | None:
    found = _HOST.fullmatch(value.decode("latin-1").strip(" \t"))
    if found is None:
        return None
    name = (found["name"] or "").lower()
    if found["address"]:
        try:
            name = f"[{ipaddress.IPv6Address(found['address'])}]"
        except ValueError:
            return None
    port = int(found["port"]) if found["port"] else None
    return None if port is not None and port > _PORT_MAX else (name, port)


def host_pattern(text: str) -> str:
    """A name or `*.` and a domain as a setting has it, spelt as `host_and_port` spells names; a port is left out.

    Raises ValueError for what is neither.
    """
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if not name.isascii():
        try:
            name = name.rstrip(".").encode("idna").decode("ascii")
        except UnicodeError:
            name = ""
        if not name or _DISPUTED & set(text):
            raise ValueError(f"{text!r} has to be written in ASCII, as DNS has it (xn--…)")
    found = host_and_port((f"[{name}]" if name.count(":") > 1 and "[" not in name else name).encode())
    if found is None or (wildcard and found[0].startswith("[")):
        raise ValueError(f"{text!r} is no host name, such as api.example.com or *.example.com")
    return wildcard + found[0]


class AllowedHosts:
    """Which hosts a gateway answers as: those of `host_pattern`'s patterns, or all if there are none."""

    def __init__(self, patterns: tuple[str, ...] = ()) -> None:
        self._names = frozenset(pattern for pattern in patterns if not pattern.startswith("*."))
        self._domains = tuple(pattern[1:] for pattern in patterns if pattern.startswith("*."))
        self._any = not patterns

    def include(self, name: str | None) -> bool:
        """Whether a name, as `host_and_port` spells it, is one of them; None is the name of a request without any."""
        return self._any or (name is not None and (name in self._names or name.endswith(self._domains)))
