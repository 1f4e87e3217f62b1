"""The windows of all clients in Redis, shared by all processes; without Redis, each process uses its own."""

from __future__ import annotations

from typing import Any, Protocol

from gateway.settings import RateLimitSettings
from gateway.upstream.rate_limit import LocalRateLimiter
from gateway.upstream.requests import Rate

# `Window` of rate_limit.py as scripts, so that no two processes take the same call. A window expires some time after
# its end, because the limit has to be known until the next one begins. One command stores it with its expiry: Redis
# does not undo a script whose second command it refuses.
_COMMON = """
local stored = {}
for number in string.gmatch(redis.call('GET', KEYS[1]) or '', '%S+') do stored[#stored + 1] = tonumber(number) end
local limit, remaining, reset = stored[1] or 0, stored[2] or 0, stored[3] or 0
local nextcall, span = stored[4] or 0, stored[5] or 0
local function store()
  local text = string.format('%d %d %.17g %.17g %.17g', limit, remaining, reset, nextcall, span)
  redis.call('SET', KEYS[1], text, 'PX', 3600000)
end
"""
TAKE = (
    _COMMON
    + """
local at, wait_max, share, reserve = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if math.max(reset, nextcall) - at > 3660 then reset, nextcall = 0, 0 end
if at >= reset then remaining = limit else span = math.max(span, math.min(reset - at, 3600)) end
local start, apart = math.max(at, nextcall), span / math.max(1, limit - reserve)
local step = 0
if start > at then step = apart end
if at < reset then
  local usable = remaining - reserve
  if usable <= 0 then start, step = math.max(start, reset), apart
  elseif remaining <= share * limit then step = math.max(0, reset - start) / usable
  else step = 0 end
end
if start - at < wait_max then
  remaining = math.max(0, remaining - 1)
  if step > 0 then nextcall = start + step end
end
store()
return string.format('%.6f', start - at)
"""
)
UPDATE = (
    _COMMON
    + """
local newlimit, newremaining, newreset = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if newreset < reset then return 0 end
if newreset == reset and limit > 0 then newremaining = math.min(newremaining, remaining) end
limit, remaining, reset = newlimit, newremaining, newreset
store()
return 0
"""
)
BLOCK = _COMMON + "nextcall = math.max(nextcall, tonumber(ARGV[1])) store() return 0"
FOREVER = 1e9  # An infinite wait_max: Lua reads numbers from text, which has no infinity.


class Scripts(Protocol):
    """Runs a Lua script on one key; returns None while Redis is unavailable."""

    async def script(self, text: str, key: str, *arguments: str) -> Any: ...


class RedisRateLimiter:
    """Writes each response's limit to Redis and to this process, and reads it from Redis before each call."""

    def __init__(self, settings: RateLimitSettings, scripts: Scripts) -> None:
        self._settings = settings
        self._scripts = scripts
        self._local = LocalRateLimiter(settings)

    def knows(self, client: str) -> bool:
        """Always true: other processes may know the client."""
        return True

    async def take(self, client: str, at: float, wait_max: float) -> float:
        """`Window.take` of a client, in Redis if that is available."""
        numbers = (at, min(wait_max, FOREVER), self._settings.share, self._settings.reserve)
        here = self._local.take(client, at, wait_max)
        there = await self._scripts.script(TAKE, _key(client), *map(repr, numbers))
        return here if there is None else float(there)

    async def update(self, client: str, rate: Rate) -> None:
        """`Window.update` of a client, here and in Redis."""
        self._local.update(client, rate)
        await self._scripts.script(UPDATE, _key(client), *map(repr, rate))

    async def block(self, client: str, until: float) -> None:
        """`Window.block` of a client, here and in Redis."""
        self._local.block(client, until)
        await self._scripts.script(BLOCK, _key(client), repr(until))

    def remaining(self, at: float) -> float:
        """The smallest share that a client of this process has left."""
        return self._local.remaining(at)


def _key(client: str) -> str:
    return f"rate:{client}"
