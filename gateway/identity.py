"""Who is asking: the caller's token, kept where it can't be printed, and the principal it stands for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable


def principal_of(*parts: str) -> str:
    """The partition that a token, or a set of verified claims, stands for: SHA-256, in hexadecimal.

    Each part goes in with its length, so ("a", "bc") and ("ab", "c") are two.
    """
    text = ""
    for part in parts:
        text += f"{len(part)}:{part}"
    return hashlib.sha256(text.encode()).hexdigest()


class Caller:
    """A bearer token that never prints itself; `principal` partitions whatever is kept for later.

    `client` is whose rate limit is used. `expires_at` (epoch seconds) is when the token expires and `fleet` whose data
    it opens, if that is verified.
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
        """Whether the token was found to be an issuer's, and not merely sent."""
        return self.expires_at is not None

    def authorization(self) -> str:
        """The `Authorization` header for the upstream: this and `head` are the only ways out for the token."""
        return self.__authorization

    def head(self, render: Callable[[str], bytes]) -> bytes:
        """What the upstream is sent with that header in it, rendered once for all calls of a request."""
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
        raise TypeError("a Caller holds a token and is never serialised")
