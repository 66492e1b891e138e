-- Forgets a job that has ended. ARGV: id. Returns 1, or 0 where it has not ended or is not there.
local id = ARGV[1]
local key = 'cvx:job:' .. id
local job = redis.call('HMGET', key, 'state', 'owner')
if not job[1] or job[1] == 'queued' or job[1] == 'in_progress' then
  return 0
end
redis.call('ZREM', 'cvx:jobs', id)
redis.call('ZREM', 'cvx:jobs:' .. job[2], id)
redis.call('ZREM', 'cvx:done', id)
redis.call('DEL', key, 'cvx:events:' .. id, 'cvx:scores:' .. id, 'cvx:preview:' .. id)
return 1
