-- The wish that a job ends. ARGV: id, now_ms. Returns the state it has now, or false where there is no such job. One that runs
-- is told by its next renewal.
local id, now = unpack(ARGV)
local job = load(id)
if not job then
  return false
end
if job.state == 'in_progress' then
  call('HSET', 'cvx:job:' .. id, 'cancel', 1)
elseif job.state == 'queued' then
  rouse(job)
  move(job, 'cancelled', '', now)
end
return job.state
