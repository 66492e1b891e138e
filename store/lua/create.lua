-- A new job. ARGV: id, spec, owner, priority, created_ms, idempotency key or '', deadline_ms or 0, image or '', most waiting jobs
-- of the owner or 0, most new ones a minute or 0, bytes that it needs or 0, cost: its share in what the owner has had. Returns the id: of the job that the same idempotency key made before, if
-- there is one. Beyond a limit: {which, seconds after which to ask again}.
local id, spec, owner, priority, created, once, deadline, image, waiting, minute, bytes, cost = unpack(ARGV)
local key = 'cvx:once:' .. owner .. ':' .. once
if once ~= '' then
  local before = call('GET', key)
  if before and call('EXISTS', 'cvx:job:' .. before) == 1 then
    return before
  end
end
if tonumber(waiting) > 0 and call('ZCARD', 'cvx:jobs:' .. owner .. ':queued') >= tonumber(waiting) then
  return {'waiting', 5}
end
if tonumber(minute) > 0 then
  local rate = 'cvx:rate:' .. owner .. ':' .. math.floor(tonumber(created) / 60000)
  if call('INCR', rate) > tonumber(minute) then
    return {'minute', 60 - math.floor(tonumber(created) / 1000) % 60}
  end
  call('EXPIRE', rate, 120)
end
if once ~= '' then
  call('SET', key, id, 'EX', 86400)
end
local job = {id = id, owner = owner, priority = priority, created_ms = created}
call('HSET', 'cvx:job:' .. id, 'spec', spec, 'owner', owner, 'priority', priority, 'created_ms', created, 'attempts', 0,
  'deaths', 0, 'deadline_ms', deadline, 'token', 0, 'image', image, 'bytes', bytes, 'cost', cost)
enter(job, 'queued')
wait(job)
if tonumber(deadline) > 0 then
  call('ZADD', 'cvx:deadlines', deadline, id)
end
if image ~= '' then
  call('HINCRBY', 'cvx:images', image, 1)
end
call('ZADD', 'cvx:jobs', created, id)
call('ZADD', 'cvx:jobs:' .. owner, created, id)
tell(id, 'type', 'state', 'state', 'queued')
call('HINCRBY', 'cvx:count', 'created', 1)
return id
