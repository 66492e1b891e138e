-- Before every script: what a change of a job's state means for the keys. docs/redis.md names them.
local call = redis.call
local EVENTS = 2000

local function tell(id, ...)
  call('XADD', 'cvx:events:' .. id, 'MAXLEN', '~', EVENTS, '*', ...)
end

-- The job's fields as a table (numbers where they are), or nil where there is no such job.
local function load(id)
  local names = {'state', 'owner', 'priority', 'created_ms', 'entry', 'token', 'attempts', 'cancel', 'deadline_ms',
    'started_ms', 'pool', 'image', 'returns', 'deaths', 'bytes', 'cost', 'holder'}
  local values = call('HMGET', 'cvx:job:' .. id, unpack(names))
  if not values[1] then
    return nil
  end
  local job = {id = id}
  for i, name in ipairs(names) do
    job[name] = values[i] or ''
  end
  return job
end

-- From one state (nil: a new job) to another (nil: forgotten), in the lists and counters.
local function enter(job, state)
  if job.state then
    call('ZREM', 'cvx:jobs:' .. job.owner .. ':' .. job.state, job.id)
    call('HINCRBY', 'cvx:state', job.state, -1)
  end
  if state then
    call('ZADD', 'cvx:jobs:' .. job.owner .. ':' .. state, job.created_ms, job.id)
    call('HINCRBY', 'cvx:state', state, 1)
    call('HSET', 'cvx:job:' .. job.id, 'state', state)
  end
  job.state = state
end

-- The job waits for its turn.
local function wait(job)
  call('ZADD', 'cvx:waiting:' .. job.owner, tonumber(job.priority) * 1e14 + tonumber(job.created_ms), job.id)
  call('SADD', 'cvx:owners', job.owner)
end

-- Of two owners' first jobs: the one of higher priority, and among equal ones that of the owner who has had less.
local function priority_of(score)
  return math.floor(tonumber(score) / 1e14)
end

local function goes_first(priority, had, than_priority, than_had)
  return priority < than_priority or (priority == than_priority and had < than_had)
end

-- It waits again: its owner has not had it.
local function back(job)
  call('HINCRBYFLOAT', 'cvx:usage', job.owner, -(tonumber(job.cost) or 1))
  wait(job)
end

-- It waits no more: wherever it did.
local function rouse(job)
  call('ZREM', 'cvx:waiting:' .. job.owner, job.id)
  call('ZREM', 'cvx:unfit', job.id)
end

-- Takes the job out of the queue and from its pool.
local function release(job)
  if job.entry ~= '' then
    call('XACK', 'cvx:queue', 'pools', job.entry)
    call('XDEL', 'cvx:queue', job.entry)
    call('HDEL', 'cvx:job:' .. job.id, 'entry')
    job.entry = ''
  end
  call('ZREM', 'cvx:running', job.id)
  call('DEL', 'cvx:lease:' .. job.id)
end

-- The job ends, or with state 'queued' waits for another try. Every cause is kept, a line each.
local function move(job, state, cause, now)
  local key = 'cvx:job:' .. job.id
  release(job)
  enter(job, state)
  call('HSET', key, 'token', 0, 'cause', cause)
  if cause ~= '' then
    local causes = call('HGET', key, 'causes')
    call('HSET', key, 'causes', string.sub((causes and causes .. '\n' or '') .. cause, -4000))
  end
  if state == 'queued' then
    back(job)
  else
    call('ZREM', 'cvx:deadlines', job.id)
    call('HSET', key, 'completed_ms', now)
    call('ZADD', 'cvx:done', now, job.id)
    call('HINCRBY', 'cvx:count', state, 1)
  end
  if cause ~= '' then
    tell(job.id, 'type', 'state', 'state', state, 'cause', cause)
  else
    tell(job.id, 'type', 'state', 'state', state)
  end
end

-- One more value in a histogram: seconds.
local function observe(name, seconds)
  local bounds = {0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000}
  local key, bucket = 'cvx:hist:' .. name, 'inf'
  for _, bound in ipairs(bounds) do
    if seconds <= bound then
      bucket = tostring(bound)
      break
    end
  end
  call('HINCRBY', key, bucket, 1)
  call('HINCRBY', key, 'count', 1)
  call('HINCRBYFLOAT', key, 'sum', seconds)
end
