-- A job that a pool read from the queue and never claimed (it died in between) goes back. ARGV: entry, id.
local entry, id = unpack(ARGV)
local key = 'cvx:job:' .. id
local job = redis.call('HMGET', key, 'state', 'entry', 'owner', 'priority', 'created_ms')
redis.call('XACK', 'cvx:queue', 'pools', entry)
redis.call('XDEL', 'cvx:queue', entry)
if job[1] == 'queued' and job[2] == entry then
  redis.call('ZADD', 'cvx:waiting:' .. job[3], tonumber(job[4]) * 1e14 + tonumber(job[5]), id)
  redis.call('SADD', 'cvx:owners', job[3])
  return 1
end
return 0
