-- The wish that a job ends. ARGV: id, now_ms. Returns the state it has now, or false where there is no such job. One that runs
-- is told by its next renewal.
local id, now = unpack(ARGV)
local key = 'cvx:job:' .. id
local job = redis.call('HMGET', key, 'state', 'entry', 'owner')
if job[1] == 'in_progress' then
  redis.call('HSET', key, 'cancel', 1)
elseif job[1] == 'queued' then
  redis.call('ZREM', 'cvx:waiting:' .. job[3], id)
  if job[2] then
    redis.call('XDEL', 'cvx:queue', job[2])
  end
  redis.call('HSET', key, 'state', 'cancelled', 'completed_ms', now)
  redis.call('ZADD', 'cvx:done', now, id)
  redis.call('HINCRBY', 'cvx:count', 'cancelled', 1)
  redis.call('XADD', 'cvx:events:' .. id, '*', 'type', 'state', 'state', 'cancelled')
  return 'cancelled'
end
return job[1]
