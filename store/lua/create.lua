-- A new job. ARGV: id, spec, owner, priority, created_ms, idempotency key or '', deadline_ms or 0.
-- Returns the id: of the job that the same idempotency key made before, if there is one.
local id, spec, owner, priority, created, once, deadline = unpack(ARGV)
if once ~= '' then
  local key = 'cvx:once:' .. owner .. ':' .. once
  local before = redis.call('GET', key)
  if before and redis.call('EXISTS', 'cvx:job:' .. before) == 1 then
    return before
  end
  redis.call('SET', key, id, 'EX', 86400)
end
redis.call('HSET', 'cvx:job:' .. id, 'spec', spec, 'owner', owner, 'state', 'queued', 'priority', priority,
  'created_ms', created, 'attempts', 0, 'deaths', 0, 'deadline_ms', deadline, 'token', 0)
redis.call('ZADD', 'cvx:jobs', created, id)
redis.call('ZADD', 'cvx:jobs:' .. owner, created, id)
redis.call('ZADD', 'cvx:waiting:' .. owner, tonumber(priority) * 1e14 + tonumber(created), id)
redis.call('SADD', 'cvx:owners', owner)
redis.call('XADD', 'cvx:events:' .. id, '*', 'type', 'state', 'state', 'queued')
redis.call('HINCRBY', 'cvx:count', 'created', 1)
return id
