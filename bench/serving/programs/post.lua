-- For wrk: posts the lines of a file in turn, each a path, a blank, and a body. The file is the
-- only argument of the script.
local posts, turn = {}, 0
function init(args)
  wrk.headers["Content-Type"] = "application/json"
  for line in io.lines(args[1]) do
    local blank = line:find(" ", 1, true)
    posts[#posts + 1] = wrk.format("POST", line:sub(1, blank - 1), nil, line:sub(blank + 1))
  end
end
function request()
  turn = turn % #posts + 1
  return posts[turn]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("FOUND %d %d %d %d %d\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
