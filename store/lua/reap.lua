-- Looks after one job that a pool took. ARGV: id, now_ms, most deaths. A lease that has run out means that its pool is gone: the
-- job waits again, or ends when that has happened too often. Returns its state where something changed, else false.
local id, now, most = unpack(ARGV)
local key = 'cvx:job:' .. id
local job = redis.call('HMGET', key, 'state', 'entry', 'owner', 'deaths', 'cancel', 'priority', 'created_ms', 'pool')
if job[1] ~= 'in_progress' then
  redis.call('ZREM', 'cvx:running', id)
  return false
end
if redis.call('EXISTS', 'cvx:lease:' .. id) == 1 then
  return false
end
redis.call('XACK', 'cvx:queue', 'pools', job[2])
redis.call('XDEL', 'cvx:queue', job[2])
redis.call('ZREM', 'cvx:running', id)
local deaths = redis.call('HINCRBY', key, 'deaths', 1)
local state, cause = 'queued', 'pool ' .. job[8] .. ' was lost while it ran the job'
if job[5] == '1' then
  state = 'cancelled'
elseif deaths >= tonumber(most) then
  state, cause = 'failed', 'quarantined: ' .. deaths .. ' pools were lost while they ran the job, the last was ' .. job[8]
end
redis.call('HSET', key, 'state', state, 'token', 0, 'cause', cause)
if state == 'queued' then
  redis.call('ZADD', 'cvx:waiting:' .. job[3], tonumber(job[6]) * 1e14 + tonumber(job[7]), id)
  redis.call('SADD', 'cvx:owners', job[3])
else
  redis.call('HSET', key, 'completed_ms', now)
  redis.call('ZADD', 'cvx:done', now, id)
  redis.call('HINCRBY', 'cvx:count', state, 1)
end
redis.call('XADD', 'cvx:events:' .. id, '*', 'type', 'state', 'state', state, 'cause', cause)
return state
