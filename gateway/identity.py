"""Who is asking: the caller's token, kept where it can't be printed, and the principal it stands for."""

from __future__ import annotations

import hashlib


class Caller:
    """A bearer token that never prints itself; `principal` partitions whatever is kept for later."""

    __slots__ = ("__token", "principal")

    def __init__(self, token: str) -> None:
        self.__token = token
        self.principal = hashlib.sha256(token.encode()).hexdigest()

    def authorization(self) -> str:
        """The `Authorization` header for the upstream: the only way out for the token."""
        return f"Bearer {self.__token}"

    def __repr__(self) -> str:
        return f"Caller(principal={self.principal[:8]}…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Caller) and other.principal == self.principal

    def __hash__(self) -> int:
        return hash(self.principal)

    def __reduce__(self) -> str:
        raise TypeError("a Caller holds a token and is never serialised")
