-- Moves jobs from the owners' lists into the queue, as many as pools can take soon. ARGV: depth, now_ms. Of the owners whose
-- first job has the highest priority, the one that has had least goes first. Returns how many were moved.
local depth, now = tonumber(ARGV[1]), tonumber(ARGV[2])
local moved = 0
while call('XLEN', 'cvx:queue') - call('ZCARD', 'cvx:running') < depth do
  local best, owner, priority, had
  for _, o in ipairs(call('SMEMBERS', 'cvx:owners')) do
    local first = call('ZRANGE', 'cvx:waiting:' .. o, 0, 0, 'WITHSCORES')
    if #first == 0 then
      call('SREM', 'cvx:owners', o)
    else
      local p = math.floor(tonumber(first[2]) / 1e14)
      local u = tonumber(call('HGET', 'cvx:usage', o) or '0')
      if not best or p < priority or (p == priority and u < had) then
        best, owner, priority, had = first[1], o, p, u
      end
    end
  end
  if not best then
    break
  end
  call('ZREM', 'cvx:waiting:' .. owner, best)
  local key = 'cvx:job:' .. best
  if call('HGET', key, 'state') == 'queued' then
    local entry = call('XADD', 'cvx:queue', '*', 'job', best)
    call('HSET', key, 'entry', entry, 'dispatched_ms', now)
    -- who comes back after a pause does not get all that the others had meanwhile
    local floor = tonumber(call('GET', 'cvx:usage:floor') or '0')
    call('SET', 'cvx:usage:floor', math.max(floor, had))
    call('HSET', 'cvx:usage', owner, math.max(floor, had) + 1)
    moved = moved + 1
  end
end
return moved
