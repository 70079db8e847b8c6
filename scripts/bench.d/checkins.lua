-- wrk script: check-ins of random members at random studios.
-- Arguments: a file with one studio key a line, the number of members.
-- Every body has the same length, so a request is its studio's head and a body; nothing else is built per request.

local BODY = '{"aggregatorId": "m%d", "customerId": %d}'
local heads, members = {}, 0

function init(args)
  local file = assert(io.open(args[1]))
  members = tonumber(args[2])
  math.randomseed(os.time())
  local body = BODY:format(100000, 200100000)
  for key in file:lines() do
    local headers = { ["X-API-Key"] = key, ["Content-Type"] = "application/json; charset=utf-8" }
    local request = wrk.format("POST", nil, headers, body)
    heads[#heads + 1] = request:sub(1, #request - #body)
  end
  file:close()
end

function request()
  local number = 100000 + math.random(members)
  return heads[math.random(#heads)] .. '{"aggregatorId": "m' .. number .. '", "customerId": 200' .. number .. "}"
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.6f, "non_2xx": %d, "socket_errors": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status, errors.connect + errors.read + errors.write,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
