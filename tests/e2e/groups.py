"""A pool of four ranks that splits itself: small jobs run beside each other, a large one has all ranks, a failed or cancelled one
harms nobody. usage: groups.py CVX WORK_FOLDER; exits with 1 if anything is wrong."""
import os
import time

from cluster import Cluster, drive, plain, spent
from service import finish, say, work

PROMPT = "a red circle moving right on a white background"


def together(s, ids):
    """How many of the jobs ran at once at most, and the meshes they ran on."""
    most, meshes, end = 0, {}, time.time() + 120
    while time.time() < end:
        states = [s.call("GET", f"/v1/videos/{v}")[1] for v in ids]
        most = max(most, sum(v["status"] == "in_progress" for v in states))
        for v in states:
            if v["cvx"].get("mesh"):
                meshes[v["id"]] = v["cvx"]["mesh"]
        if all(v["status"] in ("completed", "failed", "cancelled") for v in states):
            return most, meshes, states
        time.sleep(0.03)
    return most, meshes, states


def make(s, n, steps, **more):
    return [s.create(prompt=PROMPT, seed=k, num_inference_steps=steps, **more)[1]["id"] for k in range(n)]


def content(s, video):
    return s.call("GET", f"/v1/videos/{video}/content", raw=True)[1]


def with_mesh(s, video):
    """The video, once its pool has said how its ranks are arranged."""
    for _ in range(600):
        v = s.call("GET", f"/v1/videos/{video}")[1]
        if v["cvx"].get("mesh") or v["status"] not in ("queued", "in_progress"):
            break
        time.sleep(0.05)
    return v


def held(s, kinds):
    """Jobs that wait together: the pool is busy until all are made. kinds: (how many, steps)."""
    blocker = make(s, 1, 1000)[0]
    s.wait(blocker, ("in_progress",))
    ids = [make(s, n, steps) for n, steps in kinds]
    v = with_mesh(s, blocker)
    say("one alone has all ranks", v["cvx"]["mesh"] not in (None, "one rank", "cfg 2", "ulysses 2"), v)
    s.call("POST", f"/v1/jobs/{blocker}/cancel")
    say("cancelled on all ranks", s.wait(blocker)["status"] == "cancelled")
    return ids


def idle(s):
    """Ranks that wait for a job sleep: four that asked again and again would take what others compute with."""
    told = s.call("GET", "/v1/pools")[1]["data"][0]["members"]
    say("each rank is listed", [m["rank"] for m in told] == [0, 1, 2, 3] and all(m["host"] and m["device"].startswith("cpu ")
        and m["threads"] == 1 for m in told), told)
    ranks, begin = s.ranks("four"), time.time()
    before = spent(ranks)
    time.sleep(4)
    used, passed = spent(ranks) - before, time.time() - begin
    say("four ranks that wait use less than a tenth of a core", used < 0.1 * passed, f"{used} s of {passed}")
    print(f"      {used:.2f} s of {passed:.1f}", flush=True)


def small_ones(s):
    first = make(s, 1, 20)  # shows how fast a rank is
    s.wait(first[0])
    ids, = held(s, [(8, 12)])
    most, meshes, states = together(s, ids)
    say("all are completed", all(v["status"] == "completed" for v in states), [(v["status"], v["cvx"]["attempts"], v["cvx"]["causes"]) for v in states])
    say("several ran at once", most >= 3, most)
    say("on a rank each", sum(meshes[v] == "one rank" for v in ids) >= 6, meshes)
    say("all have their scores", all(len(v["cvx"]["scores"]["frames"]) == 17 for v in states), [(v["status"], v["cvx"]["attempts"], v["cvx"]["causes"]) for v in states])
    say("all once", all(v["cvx"]["attempts"] == 1 for v in states), [(v["status"], v["cvx"]["attempts"], v["cvx"]["causes"]) for v in states])
    for k in 0, 3, 7:
        say(f"seed {k}: the bytes of cvx generate", content(s, ids[k]) == plain(PROMPT, 12, f"small-{k}", "--seed", str(k)))


def running(s, ids, n):
    """At least n of the jobs, once so many run."""
    for _ in range(600):
        got = [v for v in ids if s.call("GET", f"/v1/videos/{v}")[1]["status"] == "in_progress"]
        if len(got) >= n:
            break
        time.sleep(0.05)
    say(f"{n} run at once", len(got) >= n, got)
    return got


def mixed(s):
    """A large job among small ones, a cancelled one, one that is too late."""
    rate = s.call("GET", "/v1/pools")[1]["data"][0]["rank_tflops"]
    say("the pool ends", s.end_pool("four") == 0, s.tail())
    # 60 steps are worth one rank or two, 1000 all, also where this machine is four times as fast or slow from now on
    s.start_pool("four", 4, "--group-seconds", str(0.41 / rate))
    s.wait_pools(1)
    s.wait(make(s, 1, 20)[0])
    ids, (large,), more = held(s, [(4, 60), (1, 1000), (3, 10)])
    victim = running(s, ids, 2)[0]
    s.call("POST", f"/v1/jobs/{victim}/cancel")
    say("cancelled in its group", s.wait(victim)["status"] == "cancelled")
    v = s.wait(large, ("in_progress",))
    states = [s.call("GET", f"/v1/videos/{x}")[1]["status"] for x in ids]
    say("the large one waits for all ranks", v["status"] == "in_progress" and states.count("completed") == 3, states)
    late = make(s, 1, 1000, deadline=2)[0]
    v = with_mesh(s, large)
    say("and has them", v["cvx"]["mesh"] not in (None, "one rank", "cfg 2", "ulysses 2"), v)
    late = s.wait(late)
    say("a deadline ends one that waits", late["status"] == "failed" and "deadline" in late["error"]["message"], late)
    s.call("POST", f"/v1/jobs/{large}/cancel")
    say("cancelled on all ranks", s.wait(large)["status"] == "cancelled")
    _, _, states = together(s, ids + more)
    say("the others are completed", [v["status"] for v in states].count("completed") == 6, [(v["status"], v["cvx"]["causes"]) for v in states])
    say("the bytes of cvx generate", victim == ids[1] or content(s, ids[1]) == plain(PROMPT, 60, "mixed", "--seed", "1"))


def drained(s):
    """SIGUSR1 in the middle of several: each leaves its checkpoint, waits and goes on, and the try is not counted."""
    ids, = held(s, [(4, 150)])
    running(s, ids, 2)
    say("the pool ends well", s.end_pool("four") == 0, s.tail())
    states = [s.call("GET", f"/v1/videos/{v}")[1] for v in ids]
    say("all wait again", all(v["status"] in ("queued", "completed") for v in states), [(v["status"], v["cvx"]["attempts"], v["cvx"]["causes"]) for v in states])
    say("the pool has signed off", s.call("GET", "/v1/pools")[1]["data"] == [])
    s.start_pool("four", 4, "--group-seconds", "1e6")
    _, _, states = together(s, ids)
    say("all are completed", all(v["status"] == "completed" for v in states), [(v["status"], v["cvx"]["attempts"], v["cvx"]["causes"]) for v in states])
    say("the bytes of cvx generate", content(s, ids[2]) == plain(PROMPT, 150, "drained", "--seed", "2"))


def fits(s):
    """A job that no pool has the memory for waits, and says why, until one has."""
    say("the pool ends", s.end_pool("four") == 0, s.tail())
    s.start_pool("small", 1, "--pool-memory", "0.05")
    s.wait_pools(1)
    _, v, _ = s.create(prompt=PROMPT, num_inference_steps=2)
    for _ in range(100):
        _, now, _ = s.call("GET", f"/v1/videos/{v['id']}")
        if now["cvx"].get("cause"):
            break
        time.sleep(0.1)
    say("it waits for memory", now["status"] == "queued" and "memory" in (now["cvx"].get("cause") or ""), now)
    s.start_pool("large", 1)
    done = s.wait(v["id"])
    say("until a pool has it", done["status"] == "completed" and done["cvx"]["pool"] == "large", done)


cluster = Cluster(f"{work}/cluster")
cluster.start_pool("four", 4, "--group-seconds", "1e6")
cluster.wait_pools(1)
drive(cluster, idle, small_ones, mixed, *([drained] if os.environ.get("CVX_CHECK_FULL") == "1" else []), fits)
finish()
