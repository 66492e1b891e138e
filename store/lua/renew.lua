-- A pool keeps its job, and tells how far it is. ARGV: id, token, lease_ms, progress message or ''. Returns 'ok', 'cancel' or
-- 'lost': somebody else has the job now, or nobody.
local id, token, lease, progress = unpack(ARGV)
local job = load(id)
if not job or job.state ~= 'in_progress' or job.token ~= token then
  return 'lost'
end
call('SET', 'cvx:lease:' .. id, token, 'PX', lease)
if progress ~= '' then
  call('HSET', 'cvx:job:' .. id, 'progress', progress)
  tell(id, 'type', 'progress', 'data', progress)
end
return job.cancel == '1' and 'cancel' or 'ok'
