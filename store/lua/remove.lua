-- Forgets a job that has ended. ARGV: id. Returns 0 where it has not ended or is not there; else 1, or its image where
-- no other job begins with that.
local id = ARGV[1]
local job = load(id)
if not job or job.state == 'queued' or job.state == 'in_progress' then
  return 0
end
enter(job, nil)
call('ZREM', 'cvx:jobs', id)
call('ZREM', 'cvx:jobs:' .. job.owner, id)
call('ZREM', 'cvx:done', id)
call('DEL', 'cvx:job:' .. id, 'cvx:events:' .. id, 'cvx:scores:' .. id)
if job.image ~= '' and call('HINCRBY', 'cvx:images', job.image, -1) <= 0 then
  call('HDEL', 'cvx:images', job.image)
  return job.image
end
return 1
