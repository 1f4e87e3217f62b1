-- For wrk with one thread: POSTs BODY with the bearer token TOKEN and, if it is set, the Connection header CONNECTION.
-- Prints in one line of JSON how many requests it began to send, how many responses arrived, and its errors: `statuses`
-- are responses that are errors, the others are requests without a response.
sent = -1 -- wrk asks for the first request once more, to check it
local whole

wrk.method = "POST"
wrk.body = os.getenv("BODY")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("TOKEN")
wrk.headers["Connection"] = os.getenv("CONNECTION")

function request()
  whole = whole or wrk.format()
  sent = sent + 1
  return whole
end

local threads = {}
function setup(thread) threads[#threads + 1] = thread end

function done(summary)
  local errors = summary.errors
  io.write(string.format(
    '\nresult {"sent": %d, "answered": %d, "statuses": %d, "refused": %d, "read": %d, "write": %d, "late": %d}\n',
    threads[1]:get("sent"), summary.requests, errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
