"""The caller: a bearer token that can't be printed or serialised, and the principal that it identifies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable


def principal_of(*parts: str) -> str:
    """The principal of a token, or of verified claims: a SHA-256 in hexadecimal.

    Each part is preceded by its length, so ("a", "bc") and ("ab", "c") differ.
    """
    text = ""
    for part in parts:
        text += f"{len(part)}:{part}"
    return hashlib.sha256(text.encode()).hexdigest()


class Caller:
    """A bearer token with its principal, which partitions caches.

    `client` identifies the client for the rate limiter. `expires_at` (epoch seconds) and `fleet` are known only if the
    token is verified.
    """

    __slots__ = ("__authorization", "__head", "client", "expires_at", "fleet", "principal")

    def __init__(
        self,
        token: str,
        principal: str | None = None,
        expires_at: float | None = None,
        fleet: str | None = None,
        client: str | None = None,
    ) -> None:
        self.__authorization = f"Bearer {token}"
        self.__head: bytes | None = None
        self.principal = principal or principal_of(token)
        self.client = client or self.principal
        self.expires_at = expires_at
        self.fleet = fleet

    @property
    def is_verified(self) -> bool:
        """Whether an issuer's keys have verified the token."""
        return self.expires_at is not None

    def authorization(self) -> str:
        """The `Authorization` header for the upstream. Only this and `head` disclose the token."""
        return self.__authorization

    def head(self, render: Callable[[str], bytes]) -> bytes:
        """The headers of upstream requests, which contain the token, rendered once per caller."""
        head = self.__head
        if head is None:
            head = self.__head = render(self.__authorization)
        return head

    def __repr__(self) -> str:
        return f"Caller(principal={self.principal[:8]}…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Caller) and other.principal == self.principal

    def __hash__(self) -> int:
        return hash(self.principal)

    def __reduce__(self) -> str:
        raise TypeError("a Caller contains a token and can't be serialised")
