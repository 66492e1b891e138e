"""Small jobs of several keys while ranks, pools, the coordinator and Redis are killed with SIGKILL at random: every job ends once,
nothing is lost or doubled, what is completed has the bytes of a calm run and its scores. Then Redis is away for a while.
usage: chaos.py CVX WORK_FOLDER; CVX_CHAOS_SEED repeats a run, CVX_CHECK_FULL=1 is the long form."""
import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time

from cluster import Cluster, drive, plain
from redis import Redis, check_keys
from service import cvx, finish, say, work

full = os.environ.get("CVX_CHECK_FULL") == "1"
seed = int(os.environ.get("CVX_CHAOS_SEED") or random.randrange(1 << 30))
JOBS = 200 if full else 20
KILLS = 60 if full else 4
OUTAGE = 60 if full else 4
KEYS = "first", "second", "third"
ENDS = b"completed", b"failed", b"cancelled"
PROMPTS = "a red circle moving right on a white background", "a blue square moving left on a black background"


class Chaos(Cluster):
    def ask(self, key, method, path, body=None, headers=None):
        """An answer, whatever dies meanwhile: 503 and broken connections are asked again."""
        while True:
            try:
                status, got, _ = self.call(method, path, body, {"Authorization": f"Bearer {key}", **(headers or {})})
                if status != 503:
                    return status, got
            except (OSError, ValueError):  # also http.client's own, which are OSErrors, and half an answer
                pass
            time.sleep(0.2)


def submit(s, rng, jobs):
    for n in range(JOBS):
        what = {"prompt": rng.choice(PROMPTS), "seed": rng.randrange(2), "num_inference_steps": rng.choice((1, 2)),
                "priority": rng.choice(("high", "normal", "low"))}
        key = rng.choice(KEYS)
        status, v = s.ask(key, "POST", "/v1/videos", what, {"Idempotency-Key": f"job-{n}"})
        if status != 200:
            say("a job is taken", False, (status, v))
            return
        jobs[v["id"]] = (key, what)


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def strike(s, rng, pools, what):
    """Kills one thing; it is there again a moment later."""
    pause = rng.uniform(0, 1.5)
    name = rng.choice(sorted(pools))
    print(f"      {time.time() - s.begun:5.1f} s: {what} {name if what in ('rank', 'pool') else ''} dies", flush=True)
    if what == "redis":
        kill(s.redis.pid)
        s.redis.wait()
        time.sleep(pause)
        s.start_redis()
    elif what == "coordinator":
        kill(s.process.pid)
        s.process.wait()
        time.sleep(pause)
        s.process = s.start_coordinator(s.port)
    else:
        if what == "rank":
            kill(rng.choice(s.ranks(name)))
            try:
                s.pools[name].wait(30)  # MPI ends the others
            except subprocess.TimeoutExpired:
                pass
        s.end_pool(name, signal.SIGKILL)
        time.sleep(pause)
        s.start_pool(name, *pools[name])


def storm(s):
    rng, jobs, s.begun = random.Random(seed), {}, time.time()
    pools = {"two": (2,), "one": (1,)} if not full else {"three": (3,), "two": (2,), "one": (1,)}
    for name, args in pools.items():
        s.start_pool(name, *args)
    worker = threading.Thread(target=submit, args=(s, random.Random(seed + 1), jobs))
    worker.start()
    # each kind at least once, in any order
    strikes = ["rank", "pool", "coordinator", "redis"] + rng.choices(("rank", "pool", "coordinator", "redis"), k=KILLS - 4)
    rng.shuffle(strikes)
    for k, what in enumerate(strikes):
        while len(jobs) < k * JOBS // KILLS and worker.is_alive():  # until the last job is there
            time.sleep(0.05)
        time.sleep(rng.uniform(0.5, 4.0))
        strike(s, rng, pools, what)
        if not worker.is_alive() and len(jobs) == JOBS and all_over(s, jobs):
            break
    worker.join()
    end = time.time() + (600 if full else 120)
    while time.time() < end and not all_over(s, jobs):
        time.sleep(0.3)
    print(f"      {time.time() - s.begun:5.1f} s: all quiet", flush=True)
    s.jobs = jobs
    say("every job was taken once", len(jobs) == JOBS, len(jobs))


def all_over(s, jobs):
    try:
        return Redis(s.socket)("ZCARD", "cvx:done") >= len(jobs)
    except OSError:
        return False


def judge(s):
    r = Redis(s.socket)
    calm, scored, counts, wrong = {}, {}, {}, []
    for video, (key, what) in s.jobs.items():
        _, v = s.ask(key, "GET", f"/v1/videos/{video}")
        counts[v["status"]] = counts.get(v["status"], 0) + 1
        ends = [e for _, f in r("XRANGE", f"cvx:events:{video}", "-", "+")
                for e in [dict(zip(f[::2], f[1::2]))] if e[b"type"] == b"state" and e[b"state"] in ENDS]
        if len(ends) != 1:
            wrong.append((video, "ended", len(ends)))
        if v["status"] == "failed" and not (v["error"] or {}).get("message"):
            wrong.append((video, "has no cause", v))
        if v["status"] != "completed":
            continue
        same = what["prompt"], what["num_inference_steps"], what["seed"]
        if same not in calm:
            name = f"calm-{len(calm)}"
            calm[same] = plain(same[0], same[1], name, "--seed", str(same[2]))
            scored[same] = json.loads(subprocess.run(
                [cvx, "score", "--json", "--clip-model", "models/shapes-clip", "--prompt", same[0], f"{work}/plain-{name}.mp4"],
                capture_output=True, text=True).stdout)["frames"]
        status, data, _ = s.call("GET", f"/v1/videos/{video}/content", headers={"Authorization": f"Bearer {key}"}, raw=True)
        if status != 200 or data != calm[same]:
            wrong.append((video, "other bytes", status, len(data)))
        frames = (v["cvx"]["scores"] or {}).get("frames", [])
        if len(frames) != len(scored[same]) or max(abs(a - b) for a, b in zip(frames, scored[same])) > 0.05:
            wrong.append((video, "scores", frames))
    print(f"      {counts}", flush=True)
    say("every job has ended once, with its bytes and scores or with a cause", not wrong and
        set(counts) <= {"completed", "failed"}, wrong[:5] or counts)
    say("most are completed", counts.get("completed", 0) >= 0.5 * JOBS, counts)
    told = {k.decode(): int(v) for k, v in zip(*[iter(r("HGETALL", "cvx:count"))] * 2)}
    say("the counters agree", told.get("created") == JOBS and told.get("completed", 0) == counts.get("completed", 0) and
        told.get("failed", 0) == counts.get("failed", 0), (told, counts))
    left = r("XLEN", "cvx:queue"), r("ZCARD", "cvx:running"), len([k for k in r.keys() if b"waiting" in k or b":lease:" in k])
    say("nothing is left behind", left == (0, 0, 0), left)
    listed = {v["id"] for key in KEYS for v in pages(s, key)}
    say("the lists have every job", listed == set(s.jobs), len(listed))
    check_keys(r, say)


def pages(s, key):
    after, found = "", []
    while True:
        _, page = s.ask(key, "GET", f"/v1/videos?limit=100{after}")
        found += page["data"]
        if not page["has_more"]:
            return found
        after = f"&after={page['last_id']}"


def outage(s):
    """Redis is away; what runs goes on."""
    for name in list(s.pools):
        s.end_pool(name)
    s.start_pool("calm", 1)
    what = {"prompt": PROMPTS[0], "num_inference_steps": 1000 if full else 250}
    _, v = s.ask(KEYS[0], "POST", "/v1/videos", what)
    while s.ask(KEYS[0], "GET", f"/v1/videos/{v['id']}")[1]["status"] != "in_progress":
        time.sleep(0.1)
    kill(s.redis.pid)
    s.redis.wait()
    end, answers = time.time() + OUTAGE, []
    while time.time() < end:
        for method, path, body in ("GET", f"/v1/videos/{v['id']}", None), ("POST", "/v1/videos", what), ("GET", "/v1/videos", None):
            status, _, told = s.call(method, path, body, {"Authorization": f"Bearer {KEYS[0]}"})
            answers.append((status, told["Retry-After"] is not None))
        time.sleep(0.3)
    say("503 with Retry-After", set(answers) == {(503, True)}, set(answers))
    say("the coordinator is alive", s.call("GET", "/healthz")[0] == 200)
    s.start_redis()
    end = time.time() + 120
    while time.time() < end:
        _, got = s.ask(KEYS[0], "GET", f"/v1/videos/{v['id']}")
        if got["status"] in ("completed", "failed"):
            break
        time.sleep(0.2)
    say("the job went on, and was reported", got["status"] == "completed" and got["cvx"]["attempts"] == 1, got)


print(f"      CVX_CHAOS_SEED={seed}", flush=True)
with open(f"{work}/keys", "w") as keys:
    for name in KEYS:
        keys.write(f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n")
cluster = Chaos(f"{work}/cluster", ["--api-keys", f"{work}/keys"])
drive(cluster, storm, judge, outage)
finish()
