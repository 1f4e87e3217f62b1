"""The windows of all clients in Redis, shared by all processes; while Redis is away each process keeps its own."""

from __future__ import annotations

from typing import Any, Protocol

from gateway.settings import PacingSettings
from gateway.upstream.fetching import Rate
from gateway.upstream.pacing import LocalPaces

# `Window` of pacing.py, run by Redis so that no two processes take the same call. A window is forgotten some time after
# its end: the limit has to be known until the next one begins.
_COMMON = """
local held = redis.call('HMGET', KEYS[1], 'limit', 'remaining', 'reset', 'next', 'span')
local limit, remaining = tonumber(held[1] or 0), tonumber(held[2] or 0)
local reset, nextcall = tonumber(held[3] or 0), tonumber(held[4] or 0)
local span = tonumber(held[5] or 0)
local function keep()
  redis.call('HSET', KEYS[1], 'limit', limit, 'remaining', remaining, 'reset', string.format('%.17g', reset),
             'next', string.format('%.17g', nextcall), 'span', string.format('%.17g', span))
  redis.call('PEXPIRE', KEYS[1], 3600000)
end
"""
TAKE = (
    _COMMON
    + """
local at, patience, share, reserve = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
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
if start - at < patience then
  remaining = math.max(0, remaining - 1)
  if step > 0 then nextcall = start + step end
end
keep()
return string.format('%.6f', start - at)
"""
)
LEARN = (
    _COMMON
    + """
local tlimit, tremaining, treset = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if treset < reset then return 0 end
if treset == reset and limit > 0 then tremaining = math.min(tremaining, remaining) end
limit, remaining, reset = tlimit, tremaining, treset
keep()
return 0
"""
)
BLOCK = _COMMON + "nextcall = math.max(nextcall, tonumber(ARGV[1])) keep() return 0"
FOREVER = 1e9  # as patience: Lua's numbers are read from text, and infinity has none


class Scripts(Protocol):
    """Runs a Lua script on one key; None where Redis can't be asked."""

    async def script(self, text: str, key: str, *arguments: str) -> Any: ...


class SharedPaces:
    """Each answer's word goes to Redis and to this process, each call asks Redis first."""

    def __init__(self, settings: PacingSettings, scripts: Scripts) -> None:
        self._settings = settings
        self._scripts = scripts
        self._local = LocalPaces(settings)

    def knows(self, client: str) -> bool:
        return True  # other processes may have heard of it

    async def take(self, client: str, at: float, patience: float) -> float:
        numbers = (at, min(patience, FOREVER), self._settings.share, self._settings.reserve)
        here = await self._local.take(client, at, patience)
        there = await self._scripts.script(TAKE, _key(client), *map(repr, numbers))
        return here if there is None else float(there)

    async def learn(self, client: str, told: Rate) -> None:
        await self._local.learn(client, told)
        await self._scripts.script(LEARN, _key(client), *map(repr, told))

    async def block(self, client: str, until: float) -> None:
        await self._local.block(client, until)
        await self._scripts.script(BLOCK, _key(client), repr(until))


def _key(client: str) -> str:
    return f"pace:{client}"
