-- For wrk with one thread: POSTs BODY for the principals TOKENS in turn and prints, in one line of JSON, how many responses
-- of each status arrived in each second. With PAUSE each connection waits that many milliseconds, half more or less, before
-- each request, so that requests arrive whatever the fate of others: as many a second as connections / PAUSE * 1000.
local pause = tonumber(os.getenv("PAUSE") or "0")
local ready, sent = {}, 0
statuses = ""
local second, counted = os.time(), {}

wrk.method = "POST"
wrk.body = os.getenv("BODY")
wrk.headers["Content-Type"] = "application/json"

function init()
  for token in os.getenv("TOKENS"):gmatch("%S+") do
    wrk.headers["Authorization"] = "Bearer " .. token
    ready[#ready + 1] = wrk.format()
  end
  math.randomseed(os.time())
end

function request()
  sent = sent + 1
  return ready[sent % #ready + 1]
end

if pause > 0 then
  local first = 0
  function delay()
    first = first + 1
    -- The connections, all opened at once, begin one after another.
    if first <= tonumber(os.getenv("CONNECTIONS")) then return math.floor(math.random() * pause) end
    return math.floor(pause * (0.5 + math.random()))
  end
end

function response(status)
  local now = os.time()
  if now ~= second then
    flush_second()
    second, counted = now, {}
  end
  counted[status] = (counted[status] or 0) + 1
end

function flush_second()
  local parts = {}
  for status, count in pairs(counted) do parts[#parts + 1] = string.format('"%d": %d', status, count) end
  statuses = statuses .. "{" .. table.concat(parts, ", ") .. "}, "
end

local threads = {}
function setup(thread) threads[#threads + 1] = thread end

function done(summary)
  local errors = summary.errors
  io.write(string.format('\nresult {"seconds": [%s{}], "broken": %d, "late": %d}\n', threads[1]:get("statuses"),
    errors.connect + errors.read + errors.write, errors.timeout))
end
