"""What a cluster keeps when its parts come and go: two coordinators on one Redis, pools that end, die, hang or cannot do a job.
usage: rolling.py CVX WORK_FOLDER; exits with 1 if anything is wrong."""
import os
import signal
import socket
import subprocess
import threading
import time

from cluster import Cluster, drive, free_port, plain
from redis import Redis, check_keys
from service import Service, finish, say, work

PROMPT = "a red circle moving right on a white background"
ENDS = "completed", "failed", "cancelled"


class Client(Service):
    """Asks one of the coordinators."""

    def __init__(self, url, tail):
        self.url, self.tail = url, tail


def ended(r, video):
    """The states of its stream that are ends."""
    return [f[f.index(b"state", 2) + 1].decode() for _, f in r("XRANGE", f"cvx:events:{video}", "-", "+")
            if f[1] == b"state" and f[f.index(b"state", 2) + 1].decode() in ENDS]


def two_coordinators(s):
    r, ids, answers = Redis(s.socket), [], []
    other = free_port()
    ask = [Client(s.url, s.tail), Client(f"http://127.0.0.1:{other}", s.tail)]
    second = s.start_coordinator(other)
    ask[1].wait_ready()
    for k in range(4):
        ids.append(ask[k % 2].call("POST", "/v1/videos", {"prompt": PROMPT, "num_inference_steps": 30, "seed": k})[1]["id"])
    once = "/v1/videos", {"prompt": PROMPT, "num_inference_steps": 1}, {"Idempotency-Key": "the same"}
    same = [threading.Thread(target=lambda c: answers.append(c.call("POST", *once)), args=(ask[k % 2],)) for k in range(6)]
    for t in same:
        t.start()
    for t in same:
        t.join()
    say("one key of two coordinators is one job", len({v["id"] for _, v, _ in answers}) == 1, answers)
    ids.append(answers[0][1]["id"])
    s.process.send_signal(signal.SIGTERM)
    say("the old one ends well", s.process.wait(60) == 0, s.tail())
    ids.append(ask[1].call("POST", "/v1/videos", {"prompt": PROMPT, "num_inference_steps": 2})[1]["id"])
    s.process = s.start_coordinator(s.port)
    s.wait_pools(1)
    second.send_signal(signal.SIGTERM)
    say("and the other", second.wait(60) == 0, s.tail())
    states = [s.wait(v) for v in ids]
    say("no job is lost or repeated", all(v["status"] == "completed" and v["cvx"]["attempts"] == 1 for v in states),
        [(v["status"], v["cvx"]["causes"]) for v in states])
    say("each has ended once", all(ended(r, v) == ["completed"] for v in ids), [ended(r, v) for v in ids])


def lose(s, r, video):
    """The lease of a job whose pool is gone runs out now, not in 15 s."""
    r("DEL", f"cvx:lease:{video}")


def quarantine(s):
    r = Redis(s.socket)
    _, v, _ = s.create(prompt=PROMPT, num_inference_steps=900)
    for k in range(2):
        for _ in range(600):
            now = s.call("GET", f"/v1/videos/{v['id']}")[1]
            if (now["status"], now["cvx"]["attempts"]) == ("in_progress", k + 1):
                break
            time.sleep(0.1)
        say(f"it runs, try {k + 1}", now["cvx"]["attempts"] == k + 1, now)
        s.end_pool("one", signal.SIGKILL)
        lose(s, r, v["id"])
        s.start_pool("one", 1)
    v = s.wait(v["id"], ("failed",))
    say("a job that took two pools with it is quarantined", v["status"] == "failed" and "quarantined" in v["error"]["message"], v)
    say("both causes are kept", len(v["cvx"]["causes"]) == 2 and "pool one was lost" in v["cvx"]["causes"][0], v["cvx"])


def cannot(s):
    """A job whose folder cannot be made: three tries, each with its cause."""
    say("the pool ends", s.end_pool("one") == 0, s.tail())
    _, v, _ = s.create(prompt=PROMPT, num_inference_steps=1)
    os.makedirs(f"{s.data}/data/jobs", exist_ok=True)
    with open(f"{s.data}/data/jobs/{v['id']}", "w"):
        pass
    s.start_pool("one", 1)
    v = s.wait(v["id"])
    say("tried three times", v["status"] == "failed" and v["cvx"]["attempts"] == 3 and len(v["cvx"]["causes"]) == 3, v)
    say("with its cause", v["id"] in v["error"]["message"], v["error"])


def too_late(s):
    say("the pool ends", s.end_pool("one") == 0, s.tail())
    _, v, _ = s.create(prompt=PROMPT, deadline=1)
    v = s.wait(v["id"])
    say("a deadline counts without a pool", v["status"] == "failed" and "deadline" in v["error"]["message"], v)


def thought_dead(s):
    """A pool that hangs, loses its job, and comes back with a result."""
    r = Redis(s.socket)
    slow = s.start_pool("slow", 1)
    _, v, _ = s.create(prompt=PROMPT, num_inference_steps=150, seed=3)
    s.wait(v["id"], ("in_progress",))
    slow.send_signal(signal.SIGSTOP)
    lose(s, r, v["id"])
    s.start_pool("next", 1)
    done = s.wait(v["id"])
    say("another pool does it", done["status"] == "completed" and done["cvx"]["pool"] == "next" and done["cvx"]["attempts"] == 2,
        done)
    slow.send_signal(signal.SIGCONT)
    for _ in range(200):
        state = {p["id"]: p["state"] for p in s.call("GET", "/v1/pools")[1]["data"]}
        if state.get("slow") == "idle":
            break
        time.sleep(0.1)
    say("the first one gives up", state.get("slow") == "idle", state)
    again = s.call("GET", f"/v1/videos/{v['id']}")[1]
    say("and changes nothing", (again["status"], again["cvx"]["pool"]) == ("completed", "next") and
        ended(r, v["id"]) == ["completed"], again)
    data = s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)[1]
    say("the bytes of cvx generate", data == plain(PROMPT, 150, "dead", "--seed", "3"))


def drains(s):
    """A pool that is asked to end often: the job goes on each time, and no try is counted."""
    for name in list(s.pools):
        say("a pool ends", s.end_pool(name) == 0, s.tail())
    _, v, _ = s.create(prompt=PROMPT, num_inference_steps=120)
    for k in range(4):
        s.start_pool(f"short-{k}", 1)
        s.wait(v["id"], ("in_progress", "completed"))
        time.sleep(0.7)
        say(f"it ends well, {k}", s.end_pool(f"short-{k}") == 0, s.tail())
    s.start_pool("last", 1)
    done = s.wait(v["id"], seconds=240)
    say("the job outlives four pools", done["status"] == "completed" and done["cvx"]["attempts"] >= 4, done["cvx"])
    data = s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)[1]
    say("the bytes of cvx generate", data == plain(PROMPT, 120, "drains"))
    check_keys(Redis(s.socket), say)


def state_of(pid):
    """As ps tells it: R, S, T (stopped) ...; "": it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def lose_a_rank(s, name):
    """The first rank stands still amid the frames (CVX_FAULT); the other one dies, and mpirun ends the first."""
    for _ in range(1200):
        states = {pid: state_of(pid) for pid in s.ranks(name)}
        if "T" in states.values():
            break
        time.sleep(0.1)
    others = [pid for pid, state in states.items() if state != "T"]
    say("one of two ranks stands still", len(states) == 2 and len(others) == 1, states)
    for pid in others:
        os.kill(pid, signal.SIGKILL)


def amid_stages(s):
    """A pool that is asked to end while it makes frames between the frames, then one that loses a rank there: the job is done again."""
    for name in list(s.pools):
        say("a pool ends", s.end_pool(name) == 0, s.tail())
    r = Redis(s.socket)
    _, v, _ = s.create(prompt=PROMPT, num_inference_steps=3, enable_frame_interpolation=True)
    for k, (name, fault) in enumerate((("asked", "usr1:0:stage:3"), ("poorer", "stop:0:stage:3"))):
        pool = s.start_pool(name, 2, fault=fault)
        if k == 1:
            lose_a_rank(s, name)
        pool.wait(120)
        s.pools.pop(name)
        lose(s, r, v["id"])
        for _ in range(600):
            now = s.call("GET", f"/v1/videos/{v['id']}")[1]
            if now["status"] != "in_progress":
                break
            time.sleep(0.1)
        say(f"{fault}: the job waits again", now["status"] == "queued" and now["cvx"]["attempts"] == k + 1 and
            now["cvx"]["stage"] == "interpolate" and ("stopped by a signal" in now["cvx"]["cause"] or k == 1), now)
    s.start_pool("rest", 1)
    done = s.wait(v["id"])
    say("and is done", done["status"] == "completed" and done["cvx"]["attempts"] == 3, done)
    data = s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)[1]
    say("with the bytes of cvx generate", data == plain(PROMPT, 3, "stages", "--interpolate", "2"))


def redis_hangs(s):
    """A coordinator ends all the same, however many listen to its events."""
    for name in list(s.pools):
        s.end_pool(name)
    _, v, _ = s.create(prompt=PROMPT, num_inference_steps=1)
    listeners = []
    for _ in range(40):
        c = socket.create_connection(("127.0.0.1", s.port))
        c.sendall(f"GET /v1/jobs/{v['id']}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        listeners.append(c)
    say("all hear that it is queued", all(b" 200 " in c.recv(4096) for c in listeners))
    s.redis.send_signal(signal.SIGSTOP)
    time.sleep(1)  # it has asked for them by then
    s.process.send_signal(signal.SIGTERM)
    try:
        say("SIGTERM ends the coordinator", s.process.wait(120) == 0, s.tail())
    except subprocess.TimeoutExpired:
        say("SIGTERM ends the coordinator", False, s.tail())
    s.redis.send_signal(signal.SIGCONT)


cluster = Cluster(f"{work}/cluster")
cluster.start_pool("one", 1)
cluster.wait_pools(1)
drive(cluster, two_coordinators, quarantine, cannot, too_late, thought_dead, drains, amid_stages, redis_hangs)
finish()
