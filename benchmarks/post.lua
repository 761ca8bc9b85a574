-- A POST for another line each time; at the end the result as one line of JSON.
local number = 0
local tag

function init(arguments)
  tag = arguments[1]
end

function request()
  number = number + 1
  return wrk.format("POST", string.format("/send-notification/%s-%07d@example.com", tag, number))
end

function done(summary, latency)
  local errors = summary.errors
  local refused = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  print(string.format(
    '{"answered": %d, "refused": %d, "seconds": %f, "p50": %f, "p99": %f, "slowest": %f}',
    summary.requests - errors.status, refused, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
