-- A pool takes a job it has read from the queue. ARGV: id, entry, pool, lease_ms, now_ms. Returns {token, spec, attempts}, or
-- false where the job is no longer to be done (ended, or too late); the queue's entry is then gone.
local id, entry, pool, lease, now = unpack(ARGV)
local key = 'cvx:job:' .. id
local state = redis.call('HGET', key, 'state')
if state ~= 'queued' or redis.call('HGET', key, 'entry') ~= entry then
  redis.call('XACK', 'cvx:queue', 'pools', entry)
  redis.call('XDEL', 'cvx:queue', entry)
  return false
end
local deadline = tonumber(redis.call('HGET', key, 'deadline_ms') or '0')
if deadline > 0 and tonumber(now) > deadline then
  redis.call('XACK', 'cvx:queue', 'pools', entry)
  redis.call('XDEL', 'cvx:queue', entry)
  local cause = 'the deadline passed before a pool was free'
  redis.call('HSET', key, 'state', 'failed', 'cause', cause, 'completed_ms', now)
  redis.call('ZADD', 'cvx:done', now, id)
  redis.call('HINCRBY', 'cvx:count', 'failed', 1)
  redis.call('XADD', 'cvx:events:' .. id, '*', 'type', 'state', 'state', 'failed', 'cause', cause)
  return false
end
local token = redis.call('INCR', 'cvx:token')
local attempts = redis.call('HINCRBY', key, 'attempts', 1)
redis.call('HSET', key, 'state', 'in_progress', 'token', token, 'pool', pool, 'started_ms', now)
redis.call('SET', 'cvx:lease:' .. id, token, 'PX', lease)
redis.call('ZADD', 'cvx:running', now, id)
redis.call('XADD', 'cvx:events:' .. id, 'MAXLEN', '~', 2000, '*', 'type', 'state', 'state', 'in_progress')
return {token, redis.call('HGET', key, 'spec'), attempts}
