-- Looks after one job that a pool took. ARGV: id, now_ms, most deaths. A lease that has run out means that its pool is gone: the
-- job waits again, or ends when that has happened too often. Returns its state where something changed, else false.
local id, now, most = unpack(ARGV)
local job = load(id)
if not job or job.state ~= 'in_progress' then
  call('ZREM', 'cvx:running', id)
  return false
end
if call('EXISTS', 'cvx:lease:' .. id) == 1 then
  return false
end
local deaths = call('HINCRBY', 'cvx:job:' .. id, 'deaths', 1)
local state, cause = 'queued', 'pool ' .. job.pool .. ' was lost while it ran the job'
if job.cancel == '1' then
  state = 'cancelled'
elseif deaths >= tonumber(most) then
  state, cause = 'failed', 'quarantined: ' .. deaths .. ' pools were lost while they ran the job, the last was ' .. job.pool
end
call('HINCRBY', 'cvx:count', 'lost', 1)
move(job, state, cause, now)
return state
