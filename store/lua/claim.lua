-- A pool takes a job it has read from the queue. ARGV: id, entry, pool, lease_ms, now_ms. Returns {token, spec, attempts}, or
-- false where the job is no longer to be done (ended, or too late); the queue's entry is then gone.
local id, entry, pool, lease, now = unpack(ARGV)
local key = 'cvx:job:' .. id
local job = load(id)
if not job or job.state ~= 'queued' or job.entry ~= entry then
  call('XACK', 'cvx:queue', 'pools', entry)
  call('XDEL', 'cvx:queue', entry)
  return false
end
local deadline = tonumber(job.deadline_ms) or 0
if deadline > 0 and tonumber(now) > deadline then
  move(job, 'failed', 'the deadline passed before a pool was free', now)
  return false
end
local token = call('INCR', 'cvx:token')
local attempts = call('HINCRBY', key, 'attempts', 1)
enter(job, 'in_progress')
call('HSET', key, 'token', token, 'pool', pool, 'started_ms', now)
call('SET', 'cvx:lease:' .. id, token, 'PX', lease)
call('ZADD', 'cvx:running', now, id)
if attempts == 1 then
  observe('wait', math.max(0, tonumber(now) - tonumber(job.created_ms)) / 1000)
end
tell(id, 'type', 'state', 'state', 'in_progress')
return {token, call('HGET', key, 'spec'), attempts}
