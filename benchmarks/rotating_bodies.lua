-- For wrk: POSTs BODY with the bearer token TOKEN and prints the results in one line of JSON.
-- From request to request `@id(7)` in the body becomes the id of another of FLEET vehicles, `@gid(7)` its global id, and
-- equal numbers become equal ids; after DISTINCT requests they repeat. With TOKENS that many tokens alternate.
-- The requests have ACCEPT_ENCODING, unless it is empty. If TRACED is set, they have a trace context, and one in a hundred
-- is sampled.
-- After LIMIT responses, if that is set, it prints `enough`, once, and sends no more: the process that started it has to end it.
local body, fleet = os.getenv("BODY"), tonumber(os.getenv("FLEET"))
local distinct, tokens = tonumber(os.getenv("DISTINCT")), tonumber(os.getenv("TOKENS"))
local limit, token = tonumber(os.getenv("LIMIT")), os.getenv("TOKEN")
local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(text)
  local out = {}
  for i = 1, #text, 3 do
    local a, b, c = text:byte(i, i + 2)
    local bits = a * 65536 + (b or 0) * 256 + (c or 0)
    for k = 3, 0, -1 do
      local at = math.floor(bits / 64 ^ k) % 64 + 1
      out[#out + 1] = (k == 1 and not b or k == 0 and not c) and "=" or alphabet:sub(at, at)
    end
  end
  return table.concat(out)
end

local function request_text(index)
  local step = math.floor(index * fleet / distinct)
  local function id(number) return string.format("V%07d", (tonumber(number) - 1 + step) % fleet + 1) end
  local text = body:gsub("@id%((%d+)%)", id)
  return (text:gsub("@gid%((%d+)%)", function(number) return base64("Vehicle:" .. id(number)) end))
end

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. token
if os.getenv("ACCEPT_ENCODING") ~= "" then wrk.headers["Accept-Encoding"] = os.getenv("ACCEPT_ENCODING") end

-- Each distinct request is written once: wrk itself shall not be measured.
local ready, bodies, sent, seen = {}, {}, 0, 0
local traced = os.getenv("TRACED") == "1"
if not body:find("@g?id%(") then distinct = traced and 100 or 1 end

function request()
  local index = sent % distinct
  sent = sent + 1
  local text = bodies[index] or request_text(index)
  if distinct <= 1000 then bodies[index] = text end
  if tokens > 1 then
    wrk.headers["Authorization"] = "Bearer " .. token .. "-" .. sent % tokens
    return wrk.format(nil, nil, nil, text)
  end
  if traced then
    wrk.headers["traceparent"] = string.format("00-%032x-%016x-%02x", index + 1, index + 1, index % 100 == 0 and 1 or 0)
  end
  local whole = ready[index] or wrk.format(nil, nil, nil, text)
  if distinct <= 1000 then ready[index] = whole end
  return whole
end

if limit then
  function response()
    seen = seen + 1
    if seen == limit then
      wrk.thread:stop()
      io.write("enough\n")
      io.flush()
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('\nresult {"answers": %d, "microseconds": %d, "failed": %d, "median": %d}\n',
    summary.requests, summary.duration, failed, latency:percentile(50)))
end
