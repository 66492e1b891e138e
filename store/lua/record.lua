-- A run that asked no queue, as a completed job. ARGV: id, spec, owner, priority, created_ms, now_ms, result, scores or ''.
local id, spec, owner, priority, created, now, result, scores = unpack(ARGV)
local job = {id = id, owner = owner, priority = priority, created_ms = created}
call('HSET', 'cvx:job:' .. id, 'spec', spec, 'owner', owner, 'priority', priority, 'created_ms', created, 'started_ms',
  created, 'completed_ms', now, 'attempts', 1, 'deaths', 0, 'deadline_ms', 0, 'token', 0, 'image', '', 'cause', '',
  'pool', '', 'result', result)
enter(job, 'completed')
call('ZADD', 'cvx:jobs', created, id)
call('ZADD', 'cvx:jobs:' .. owner, created, id)
call('ZADD', 'cvx:done', now, id)
call('HINCRBY', 'cvx:count', 'created', 1)
call('HINCRBY', 'cvx:count', 'completed', 1)
if scores ~= '' then
  call('SET', 'cvx:scores:' .. id, scores)
  tell(id, 'type', 'scores', 'data', scores)
end
tell(id, 'type', 'state', 'state', 'completed')
return id
