-- A job ends. ARGV: id, token, state (completed, failed, cancelled, queued: to be tried again), result or '', cause or '',
-- now_ms, scores or '', most attempts. The token decides: a pool that was thought dead changes nothing. Returns the job's
-- state, or 'lost'.
local id, token, state, result, cause, now, scores, most = unpack(ARGV)
local key = 'cvx:job:' .. id
local job = redis.call('HMGET', key, 'state', 'token', 'entry', 'owner', 'attempts', 'cancel', 'priority', 'created_ms')
if job[1] ~= 'in_progress' or job[2] ~= token then
  return 'lost'
end
if job[6] == '1' and state ~= 'completed' then
  state = 'cancelled'
end
if state == 'queued' and tonumber(job[5]) >= tonumber(most) then
  state = 'failed'
end
redis.call('XACK', 'cvx:queue', 'pools', job[3])
redis.call('XDEL', 'cvx:queue', job[3])
redis.call('ZREM', 'cvx:running', id)
redis.call('DEL', 'cvx:lease:' .. id)
redis.call('HSET', key, 'state', state, 'token', 0, 'cause', cause)
if state == 'queued' then
  redis.call('ZADD', 'cvx:waiting:' .. job[4], tonumber(job[7]) * 1e14 + tonumber(job[8]), id)
  redis.call('SADD', 'cvx:owners', job[4])
else
  redis.call('HSET', key, 'completed_ms', now)
  redis.call('ZADD', 'cvx:done', now, id)
  redis.call('HINCRBY', 'cvx:count', state, 1)
end
if result ~= '' then
  redis.call('HSET', key, 'result', result)
end
if scores ~= '' then
  redis.call('SET', 'cvx:scores:' .. id, scores)
  redis.call('XADD', 'cvx:events:' .. id, 'MAXLEN', '~', 2000, '*', 'type', 'scores', 'data', scores)
end
redis.call('XADD', 'cvx:events:' .. id, 'MAXLEN', '~', 2000, '*', 'type', 'state', 'state', state, 'cause', cause)
return state
