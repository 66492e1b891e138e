-- What runs, and what waits in the order in which dispatch would take it. ARGV: most of each. Returns {running, waiting}: of each
-- job that runs its pool, started_ms and cost, of each that waits its id, cost and bytes.
local most = tonumber(ARGV[1])
local running, waiting = {}, {}

local function put(id)
  local state, cost, bytes = unpack(call('HMGET', 'cvx:job:' .. id, 'state', 'cost', 'bytes'))
  cost = tonumber(cost or '1') or 1
  if state == 'queued' then
    table.insert(waiting, {id, tostring(cost), bytes or '0'})
  end
  return cost
end

for _, id in ipairs(call('ZRANGE', 'cvx:running', 0, most - 1)) do
  local pool, started, cost = unpack(call('HMGET', 'cvx:job:' .. id, 'pool', 'started_ms', 'cost'))
  table.insert(running, {pool or '', started or '0', cost or '1'})
end
for _, entry in ipairs(call('XRANGE', 'cvx:queue', '-', '+', 'COUNT', most)) do
  put(entry[2][2])
end

local floor, owners = tonumber(call('GET', 'cvx:usage:floor') or '0'), {}
for _, o in ipairs(call('SMEMBERS', 'cvx:owners')) do
  table.insert(owners, {jobs = call('ZRANGE', 'cvx:waiting:' .. o, 0, most - 1, 'WITHSCORES'), at = 1,
    had = tonumber(call('HGET', 'cvx:usage', o) or '0')})
end
while #waiting < most do
  local best
  for _, o in ipairs(owners) do
    o.priority = o.jobs[o.at] and priority_of(o.jobs[o.at + 1])
    if o.priority and (not best or goes_first(o.priority, o.had, best.priority, best.had)) then
      best = o
    end
  end
  if not best then
    break
  end
  local cost = put(best.jobs[best.at])
  best.at = best.at + 2
  floor = math.max(floor, best.had)
  best.had = floor + cost
end
return {running, waiting}
