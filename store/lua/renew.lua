-- A pool keeps its job, and tells how far it is. ARGV: id, token, lease_ms, progress message or ''. Returns 'ok', 'cancel' or
-- 'lost': somebody else has the job now, or nobody.
local id, token, lease, progress = unpack(ARGV)
local key = 'cvx:job:' .. id
local now = redis.call('HMGET', key, 'state', 'token', 'cancel')
if now[1] ~= 'in_progress' or now[2] ~= token then
  return 'lost'
end
redis.call('SET', 'cvx:lease:' .. id, token, 'PX', lease)
if progress ~= '' then
  redis.call('HSET', key, 'progress', progress)
  redis.call('XADD', 'cvx:events:' .. id, 'MAXLEN', '~', 2000, '*', 'type', 'progress', 'data', progress)
end
return now[3] == '1' and 'cancel' or 'ok'
