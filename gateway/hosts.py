"""Normalises and matches host names and origins, from header fields and from settings."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

# RFC 3986 allows more characters, but no real host name has them, and proxies interpret them differently.
_HOST = re.compile(
    r"(?:(?P<name>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?|\[(?P<address>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{0,5}))?"
)
# Longer than any DNS name with a port.
_LENGTH_MAX = 270
_PORT_MAX = 65535
DEFAULT_PORTS = {"http": 80, "https": 443}
# Extensions and web views of native applications have schemes of their own, such as capacitor://localhost.
_ORIGIN = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>\S+)")
# Characters that IDNA 2003, which Python implements, encodes differently than IDNA 2008.
_DISPUTED = frozenset("ßς\u200c\u200d")


def host_and_port(value: bytes) -> tuple[str, int | None] | None:
    """Name and port of a `Host` field's value; None if it is invalid.

    Names are in lower case without a trailing dot, IPv6 addresses in their shortest form in brackets.
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


def in_ascii(name: str) -> str | None:
    """A host name, with or without a port, as in DNS (xn--…); None if it is invalid, or ambiguous (IDNA 2003/2008)."""
    try:
        return None if _DISPUTED & set(name) else name.encode("idna").decode("ascii")
    except UnicodeError:
        return None


def host_pattern(text: str) -> str:
    """A host name or `*.domain` from a setting, normalised as by `host_and_port` and without a port.

    Raises ValueError for anything else.
    """
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    host = in_ascii(name)
    if host is None and not name.isascii():
        raise ValueError(f"{text!r} must be written in ASCII, as in DNS (xn--…)")
    host = host or ""
    found = host_and_port((f"[{host}]" if host.count(":") > 1 and "[" not in host else host).encode())
    if found is None or (wildcard and found[0].startswith("[")):
        raise ValueError(f"{text!r} is not a host name such as api.example.com or *.example.com")
    return wildcard + found[0]


def origin_of(value: bytes) -> str | None:
    """The normalised origin of an `Origin` field's value; None if it is `null` or invalid.

    The scheme is in lower case, the host as by `host_and_port`, and the scheme's default port is left out.
    """
    parts = _ORIGIN.fullmatch(value.decode("latin-1"))
    found = host_and_port(parts["host"].encode("latin-1")) if parts else None
    if parts is None or found is None:
        return None
    scheme, (name, port) = parts["scheme"].lower(), found
    return f"{scheme}://{name}" if port in (None, DEFAULT_PORTS.get(scheme)) else f"{scheme}://{name}:{port}"


def origin_pattern(text: str) -> str:
    """An origin from a setting, normalised as by `origin_of`, or `*` for any. One final slash is ignored.

    Raises ValueError for anything else, without quoting it, since it may contain a password.
    """
    if text == "*":
        return text
    scheme, separator, name = text.removesuffix("/").partition("://")
    host = in_ascii(name) or ""
    if not host and not name.isascii():
        raise ValueError("must be written in ASCII, as in DNS (xn--…)")
    origin = origin_of(f"{scheme}{separator}{host}".encode()) if scheme.isascii() else None
    if origin is None or origin.endswith(":0"):
        raise ValueError("must have the form scheme://host or scheme://host:port")
    return origin


def is_loopback(name: str) -> bool:
    """Whether a host name or address, as in `urlsplit(…).hostname`, is of this machine."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower().removesuffix(".") == "localhost"


class AllowedHosts:
    """The hosts that requests may name: those that match the patterns, or any if there are no patterns."""

    def __init__(self, patterns: tuple[str, ...] = ()) -> None:
        self._names = frozenset(pattern for pattern in patterns if not pattern.startswith("*."))
        self._domains = tuple(pattern[1:] for pattern in patterns if pattern.startswith("*."))
        self._any = not patterns

    def include(self, name: str | None) -> bool:
        """Whether a normalised name is allowed; None stands for a request without a host."""
        return self._any or (name is not None and (name in self._names or name.endswith(self._domains)))
