-- A job that a pool read from the queue and never claimed (it died in between) goes back. ARGV: entry, id.
local entry, id = unpack(ARGV)
local job = load(id)
call('XACK', 'cvx:queue', 'pools', entry)
call('XDEL', 'cvx:queue', entry)
if job and job.state == 'queued' and job.entry == entry then
  call('HDEL', 'cvx:job:' .. id, 'entry')
  wait(job)
  return 1
end
return 0
