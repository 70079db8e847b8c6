-- wrk script: check-ins of random members at one studio. Arguments: the studio's key, the number of members.

local members

function init(args)
  wrk.method = "POST"
  wrk.headers["X-API-Key"] = args[1]
  wrk.headers["Content-Type"] = "application/json; charset=utf-8"
  members = tonumber(args[2])
  math.randomseed(os.time())
end

function request()
  local number = math.random(members) - 1
  return wrk.format(nil, nil, nil, string.format('{"aggregatorId": "m-%07d", "customerId": %d}', number, 1000000000 + number))
end
