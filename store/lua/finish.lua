-- A job ends. ARGV: id, token, state (completed, failed, cancelled, queued: to be tried again, returned: by a pool that
-- ends, which is no try), result or '', cause or '', now_ms, scores or '', most attempts, then pairs of a metric's name and what
-- it grows by. The token decides: a pool that was
-- thought dead changes nothing. Returns the job's state, or 'lost'.
local id, token, state, result, cause, now, scores, most = unpack(ARGV)
local job = load(id)
if not job or job.state ~= 'in_progress' or job.token ~= token then
  return 'lost'
end
if job.cancel == '1' and state ~= 'completed' then
  state = 'cancelled'
end
if state == 'returned' then
  state = 'queued'
  call('HINCRBY', 'cvx:job:' .. id, 'returns', 1)
elseif state == 'queued' and tonumber(job.attempts) - (tonumber(job.returns) or 0) >= tonumber(most) then
  state = 'failed'
end
if result ~= '' then
  call('HSET', 'cvx:job:' .. id, 'result', result)
end
if scores ~= '' then
  call('SET', 'cvx:scores:' .. id, scores)
  tell(id, 'type', 'scores', 'data', scores)
end
if state == 'completed' then
  observe('run', math.max(0, tonumber(now) - tonumber(job.started_ms)) / 1000)
end
for i = 9, #ARGV - 1, 2 do
  if ARGV[i] == 'step' then
    observe('step', tonumber(ARGV[i + 1]))
  else
    call('HINCRBYFLOAT', 'cvx:sum', ARGV[i], ARGV[i + 1])
  end
end
move(job, state, cause, now)
return state
