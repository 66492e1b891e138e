-- A job that a pool read from the queue and did not claim (it died in between, or has no use for it now) goes back. One that
-- runs keeps its entry until it ends. ARGV: entry, id. Returns 1 where it went back.
local entry, id = unpack(ARGV)
local job = load(id)
if job and job.entry == entry and job.state == 'in_progress' then
  return 0
end
call('XACK', 'cvx:queue', 'pools', entry)
call('XDEL', 'cvx:queue', entry)
if job and job.state == 'queued' and job.entry == entry then
  call('HDEL', 'cvx:job:' .. id, 'entry')
  back(job)
  return 1
end
return 0
