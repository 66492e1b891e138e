-- Moves jobs from the owners' lists into the queue, as many as pools can take soon. ARGV: depth, now_ms, bytes of the largest pool
-- or 0 where none is there. Of the owners whose first job has the highest priority, the one that has had least (the sum of its jobs'
-- costs) goes first. Jobs that are too late end; those that no pool has the memory for are put aside until one has. Returns how
-- many were moved.
local depth, now, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local moved = 0
for _, id in ipairs(call('ZRANGE', 'cvx:deadlines', '-inf', '(' .. ARGV[2], 'BYSCORE')) do
  local job = load(id)
  if job and job.state == 'queued' then
    rouse(job)
    move(job, 'failed', 'the deadline passed before a pool was free', now)
  elseif not job then
    call('ZREM', 'cvx:deadlines', id)
  end
end
for _, id in ipairs(call('ZRANGE', 'cvx:unfit', '-inf', most, 'BYSCORE')) do
  local job = load(id)
  call('ZREM', 'cvx:unfit', id)
  if job and job.state == 'queued' then
    call('HSET', 'cvx:job:' .. id, 'cause', '')
    wait(job)
  end
end

local function put_aside(id, bytes)
  local cause = string.format('waits for a pool with memory: %.1f GiB are needed, the largest has %.1f', bytes / 2 ^ 30, most / 2 ^ 30)
  call('ZADD', 'cvx:unfit', bytes, id)
  call('HSET', 'cvx:job:' .. id, 'cause', cause)
  tell(id, 'type', 'state', 'state', 'queued', 'cause', cause)
end

while call('XLEN', 'cvx:queue') - call('ZCARD', 'cvx:running') < depth do
  local best, owner, priority, had
  for _, o in ipairs(call('SMEMBERS', 'cvx:owners')) do
    local first = call('ZRANGE', 'cvx:waiting:' .. o, 0, 0, 'WITHSCORES')
    if #first == 0 then
      call('SREM', 'cvx:owners', o)
    else
      local p = priority_of(first[2])
      local u = tonumber(call('HGET', 'cvx:usage', o) or '0')
      if not best or goes_first(p, u, priority, had) then
        best, owner, priority, had = first[1], o, p, u
      end
    end
  end
  if not best then
    break
  end
  call('ZREM', 'cvx:waiting:' .. owner, best)
  local key = 'cvx:job:' .. best
  local state, bytes, cost = unpack(call('HMGET', key, 'state', 'bytes', 'cost'))
  bytes = tonumber(bytes or '0') or 0
  if state == 'queued' and most > 0 and bytes > most then
    put_aside(best, bytes)
  elseif state == 'queued' then
    local entry = call('XADD', 'cvx:queue', '*', 'job', best)
    call('HSET', key, 'entry', entry, 'dispatched_ms', now)
    -- who comes back after a pause does not get all that the others had meanwhile
    local floor = math.max(tonumber(call('GET', 'cvx:usage:floor') or '0'), had)
    call('SET', 'cvx:usage:floor', floor)
    call('HSET', 'cvx:usage', owner, floor + (tonumber(cost or '1') or 1))
    moved = moved + 1
  end
end
return moved
