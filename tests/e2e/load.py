"""Many clients and a long history: 1,000 connections that ask and 50 that listen while jobs run, lists of many jobs.
usage: load.py CVX WORK_FOLDER; exits with 1 if anything is wrong. What it measures is printed; what a machine cannot change is
asserted: no error, the coordinator's memory, pages of a long history as quick as those of a short one."""
import json
import os
import statistics
import subprocess
import time

from service import Service, cvx, finish, say, work

full = os.environ.get("CVX_CHECK_FULL") == "1"
tools = f"{os.path.dirname(cvx)}/bench"


def resident(pid):
    with open(f"/proc/{pid}/status") as f:
        return {line.split(":")[0]: line.split()[1] for line in f if line.startswith("Vm")}


def clients(s, seconds, connections=1000, streams=50):
    _, v, _ = s.create(num_inference_steps=1000)
    more = [s.create(num_inference_steps=2)[1]["id"] for _ in range(5)]
    host, port = s.url.split("//")[1].split(":")
    run = subprocess.run([f"{tools}/bench_load", host, port, str(seconds), str(connections), "1000", f"/v1/videos/{v['id']}",
                          str(streams), f"/v1/jobs/{v['id']}/events"], capture_output=True, text=True)
    got = json.loads(run.stdout or "{}")
    memory = resident(s.process.pid)
    print(f"      {connections} connections, {streams} streams, {seconds} s: {run.stdout.strip()}; resident "
          f"{int(memory['VmRSS']) / 1024:.1f} MB, at most {int(memory['VmHWM']) / 1024:.1f} MB", flush=True)
    say("all are open", got.get("open") == connections + streams, run.stdout + run.stderr)
    say("no error", got.get("errors") == 0 and got.get("requests", 0) >= connections, run.stdout + run.stderr)
    say("events were told", got.get("event_bytes", 0) > 1000 * streams, run.stdout)
    with open(f"{os.path.dirname(cvx)}/cvx-coordinator", "rb") as f:
        sanitized = b"__asan_init" in f.read()  # its shadow is none of the program's memory
    say("the coordinator stays under 100 MB", sanitized or int(memory["VmHWM"]) < 100 * 1024, memory)
    s.call("POST", f"/v1/jobs/{v['id']}/cancel")
    for video in more:
        say("a job beside them", s.wait(video)["status"] == "completed")


def pages(s):
    """Median seconds of a first page, of one far behind, and of a state's."""
    _, page, _ = s.call("GET", "/v1/videos?limit=20&order=asc")
    after, times = page["data"][-1]["id"], []
    for query in "limit=20", f"limit=20&after={after}&order=asc", "limit=20&status=completed":
        spent = []
        for _ in range(15):
            begin = time.perf_counter()
            status, page, _ = s.call("GET", f"/v1/videos?{query}")
            spent.append(time.perf_counter() - begin)
            say("a page", status == 200 and len(page["data"]) == 20, page) if len(page["data"]) != 20 else None
        times.append(statistics.median(spent))
    return times


def history(s, n):
    url = f"unix://{s.data}/redis/socket"
    subprocess.run(["redis-cli", "-s", f"{s.data}/redis/socket", "config", "set", "appendfsync", "no"], check=True,
                   stdout=subprocess.DEVNULL)
    owner = s.call("GET", "/v1/videos?limit=1")[1]["data"][0]
    owner = subprocess.run(["redis-cli", "-s", f"{s.data}/redis/socket", "hget", f"cvx:job:{owner['id']}", "owner"],
                           capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run([f"{tools}/bench_history", url, owner, "100"], check=True)
    short = pages(s)
    subprocess.run([f"{tools}/bench_history", url, owner, str(n)], check=True)
    long = pages(s)
    used = subprocess.run(["redis-cli", "-s", f"{s.data}/redis/socket", "info", "memory"], capture_output=True, text=True).stdout
    print("      Redis: " + " ".join(line for line in used.split() if line.startswith("used_memory_human")), flush=True)
    print("      seconds of a page (first, far behind, of a state): of 100 jobs " + ", ".join(f"{t:.4f}" for t in short) +
          f", of {n} " + ", ".join(f"{t:.4f}" for t in long), flush=True)
    # a scan would be hundreds of times as slow; what else runs here may make a page three times as slow
    say(f"pages of {n} jobs as quick as those of 100", all(b < 4 * a for a, b in zip(short, long)), (short, long))


service = Service(f"{work}/data")
clients(service, 20 if full else 5)
history(service, 100_000 if full else 20_000)
say("SIGTERM ends it well", service.stop() == 0, service.process.returncode)
finish()
