-- A pool takes a job it has read from the queue. ARGV: id, entry, pool, holder (whoever asks again with the same one because no
-- answer came gets the same one), lease_ms, now_ms, bytes that the pool has or 0. Returns {token, spec, attempts}, or false where
-- the job is no longer to be done (ended, too late) or not by this pool; the queue's entry is then gone.
local id, entry, pool, holder, lease, now, bytes = unpack(ARGV)
local key = 'cvx:job:' .. id
local job = load(id)
if job and job.state == 'in_progress' and job.entry == entry and job.holder == holder then
  call('SET', 'cvx:lease:' .. id, job.token, 'PX', lease)
  return {tonumber(job.token), call('HGET', key, 'spec'), tonumber(job.attempts)}
end
if not job or job.state ~= 'queued' or job.entry ~= entry then
  if not job or job.entry ~= entry then
    call('XACK', 'cvx:queue', 'pools', entry)
    call('XDEL', 'cvx:queue', entry)
  end
  return false
end
if tonumber(bytes) > 0 and (tonumber(job.bytes) or 0) > tonumber(bytes) then
  release(job)
  back(job)
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
call('HSET', key, 'token', token, 'pool', pool, 'holder', holder, 'started_ms', now)
call('SET', 'cvx:lease:' .. id, token, 'PX', lease)
call('ZADD', 'cvx:running', now, id)
if attempts == 1 then
  observe('wait', math.max(0, tonumber(now) - tonumber(job.created_ms)) / 1000)
end
tell(id, 'type', 'state', 'state', 'in_progress')
return {token, call('HGET', key, 'spec'), attempts}
