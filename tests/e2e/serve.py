"""Drives `cvx serve` as clients do: the HTTP API, its errors, events, ranges, a pool that is killed.
usage: serve.py CVX WORK_FOLDER; exits with 1 if anything is wrong."""
import functools
import json
import os
import signal
import subprocess
import time
import urllib.request

from service import Service, cvx, finish, form, say, work


@functools.cache
def plain_run(steps, prompt):
    """What `cvx generate` makes of the same."""
    path = f"{work}/plain-{steps}.mp4"
    subprocess.run([cvx, "generate", "--model", "models/shapes", "--prompt", prompt, "--num-inference-steps",
                    str(steps), "--output", path, "--quiet"], check=True)
    return open(path, "rb").read()


def lifecycle(s):
    prompt = "a red circle moving right on a white background"
    status, v, _ = s.create(prompt=prompt, num_inference_steps=4)
    say("create", status == 200 and v["object"] == "video" and v["status"] == "queued", v)
    say("the checkpoint's sizes", (v["size"], v["cvx"]["num_frames"]) == ("96x64", 17), v)
    done = s.wait(v["id"])
    say("completed", done["status"] == "completed" and done["progress"] == 100, done)
    status, data, told = s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)
    with open(f"{work}/got.mp4", "wb") as f:
        f.write(data)
    scored = json.loads(subprocess.run([cvx, "score", "--json", "--clip-model", "models/shapes-clip", "--prompt", prompt,
                                        f"{work}/got.mp4"], capture_output=True, text=True).stdout)["frames"]
    got = done["cvx"]["scores"]["frames"]
    say("the scores of cvx score", len(got) == 17 and max(abs(a - b) for a, b in zip(got, scored)) < 0.05, (got, scored))
    say("the bytes of cvx generate", status == 200 and data == plain_run(4, prompt), (status, len(data)))
    status, part, told = s.call("GET", f"/v1/videos/{v['id']}/content", headers={"Range": "bytes=100-199"}, raw=True)
    say("a range", status == 206 and part == data[100:200] and told["Content-Range"] == f"bytes 100-199/{len(data)}",
        (status, told["Content-Range"]))
    status, _, _ = s.call("GET", f"/v1/videos/{v['id']}/content", headers={"Range": "bytes=99999999-"})
    say("a range behind the end", status == 416, status)
    for value, want in ("99999999999999999999999-", 416), ("0-99999999999999999999999", 206), ("-99999999999999999999999", 206):
        status, part, told = s.call("GET", f"/v1/videos/{v['id']}/content", headers={"Range": f"bytes={value}"}, raw=True)
        say(f"a range {value}", status == want and (want == 416 or part == data), (status, len(part)))
    status, part, told = s.call("HEAD", f"/v1/videos/{v['id']}/content", headers={"Range": "bytes=0-9"}, raw=True)
    say("HEAD knows no ranges", (status, part, told["Content-Length"]) == (200, b"", str(len(data))), (status, dict(told)))
    status, part, told = s.call("GET", f"/v1/videos/{v['id']}/content", headers={"If-None-Match": told["ETag"]}, raw=True)
    say("not modified", (status, part, told["Content-Length"]) == (304, b"", str(len(data))), (status, dict(told)))
    for variant in "thumbnail", "spritesheet":
        status, picture, told = s.call("GET", f"/v1/videos/{v['id']}/content?variant={variant}", raw=True)
        say(variant, status == 200 and picture[:4] == b"\x89PNG" and told["Content-Type"] == "image/png", status)
    status, again, _ = s.call("POST", f"/v1/videos/{v['id']}/remix", {"prompt": "a blue square on a black background"})
    say("remix", status == 200 and again["remixed_from_video_id"] == v["id"], again)
    say("the remix is completed", s.wait(again["id"])["status"] == "completed")
    status, page, _ = s.call("GET", "/v1/videos?limit=1")
    say("a page", [x["id"] for x in page["data"]] == [again["id"]] and page["has_more"] is True, page)
    status, page, _ = s.call("GET", f"/v1/videos?limit=1&after={again['id']}")
    say("the next page", [x["id"] for x in page["data"]] == [v["id"]], page)
    status, gone, _ = s.call("DELETE", f"/v1/videos/{v['id']}")
    say("delete", (status, gone.get("deleted")) == (200, True), gone)
    say("it is gone", s.call("GET", f"/v1/videos/{v['id']}")[0] == 404)
    say("and its files", os.listdir(f"{s.data}/jobs") == [again["id"]], os.listdir(f"{s.data}/jobs"))


def waits(s):
    """When what waits will begin, once a job has shown how fast the pool is."""
    made = [s.create(num_inference_steps=steps, priority=priority)[1]["id"]
            for steps, priority in ((900, "high"), (300, "normal"), (300, "normal"), (300, "normal"), (1, "high"))]
    s.wait(made[0], ("in_progress",))
    time.sleep(1.2)  # what is said may be a second old
    told = {v["id"]: v["cvx"]["wait_seconds"] for v in s.call("GET", "/v1/videos?status=queued")[1]["data"]}
    second, third, fourth, urgent = (told.get(v) for v in made[1:])
    say("what is before a job makes it wait", None not in (second, third, fourth, urgent) and 0 < second < third < fourth and
        urgent < fourth, told)
    say("what runs waits no more", s.call("GET", f"/v1/videos/{made[0]}")[1]["cvx"]["wait_seconds"] is None)
    for video in reversed(made):
        s.call("POST", f"/v1/jobs/{video}/cancel")
        s.wait(video)


def forms_and_keys(s):
    body, kind = form({"prompt": "a green triangle", "num_inference_steps": "2", "seconds": "1"}, {})
    status, v, _ = s.call("POST", "/v1/videos", body, kind)
    say("a form", status == 200 and v["cvx"]["num_frames"] == 9, v)
    once = {"Idempotency-Key": "one"}
    ids = {s.call("POST", "/v1/videos", {"prompt": "x", "num_inference_steps": 1}, once)[1]["id"] for _ in range(3)}
    say("an idempotency key makes one job", len(ids) == 1, ids)
    body, kind = form({"prompt": "x"}, {"input_reference": ("../../x.png", b"no picture at all")})
    status, e, _ = s.call("POST", "/v1/videos", body, kind)
    say("a picture that is none", status == 400, (status, e))
    say("and is not kept", os.listdir(f"{s.data}/uploads") == [], os.listdir(f"{s.data}/uploads"))


def refusals(s):
    for name, fields, words in [
        ("48 frames", {"num_frames": 48}, ("45", "49")), ("no prompt", {"prompt": ""}, ("prompt",)),
        ("a guidance of 21", {"guidance_scale": 21}, ("guidance_scale", "20")),
        ("a wrong type", {"num_inference_steps": [3]}, ("num_inference_steps",)),
        ("a seed that is no number", {"seed": "abc"}, ("seed",)), ("a size", {"size": "big"}, ("size", "720x480")),
        ("a size that does not go", {"size": "97x64"}, ("97",)), ("another model", {"model": "sora-2"}, ("sora-2", "shapes")),
        ("a priority", {"priority": "now"}, ("high",)), ("a scheduler", {"scheduler": "none"}, ("none",)),
        ("a very long prompt", {"prompt": "x" * 40000}, ("prompt",)),
    ]:
        status, e, _ = s.create(**fields)
        message = e.get("error", {}).get("message", "")
        say(f"refused: {name}", status == 400 and all(w in message for w in words), (status, e))
    for name, method, path, body, want in [
        ("no JSON", "POST", "/v1/videos", b"{", 400), ("an array", "POST", "/v1/videos", b"[1]", 400),
        ("deep nesting", "POST", "/v1/videos", b'{"prompt":' + b"[" * 500_000, 400),
        ("10 MB", "POST", "/v1/videos", b'{"prompt":"' + b"x" * 10_000_000 + b'"}', 413),
        ("an id that climbs", "GET", "/v1/videos/..%2f..%2fetc%2fpasswd", None, 404),
        ("another id", "GET", "/v1/videos/video_" + "0" * 32 + "/content", None, 404),
        ("a limit", "GET", "/v1/videos?limit=0", None, 400), ("an order", "GET", "/v1/videos?order=up", None, 400),
        ("an after", "GET", "/v1/videos?after=x", None, 400), ("no such path", "GET", "/v1/nothing", None, 404),
        ("a method", "PUT", "/v1/videos", b"{}", 405),
    ]:
        status, e, _ = s.call(method, path, body, {"Content-Type": "application/json"})
        say(f"refused: {name}", status == want and e["error"]["message"], (status, e))


def events(s):
    _, v, _ = s.create(num_inference_steps=8)
    with urllib.request.urlopen(f"{s.url}/v1/jobs/{v['id']}/events", timeout=60) as stream:
        text = stream.read().decode()
    told = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block[:3] == "id:"]
    states = [json.loads(e["data"])["status"] for e in told if e["event"] == "state"]
    say("events: states", states == ["queued", "in_progress", "completed"], states)
    say("events: progress", any(e["event"] == "progress" for e in told), text[:500])
    shown = [json.loads(e["data"])["preview_step"] for e in told if "preview_step" in e.get("data", "")]
    say("events: previews", len(set(shown)) >= 3 and shown == sorted(shown), shown)
    meshes = {json.loads(e["data"])["mesh"] for e in told if e["event"] == "progress"}
    say("events: the mesh", len(meshes - {None}) == 1, meshes)
    status, png, _ = s.call("GET", f"/v1/videos/{v['id']}/content?variant=preview", raw=True)
    say("the last preview", status == 200 and png[:4] == b"\x89PNG", status)
    say("events: scores", [len(json.loads(e["data"])["frames"]) for e in told if e["event"] == "scores"] == [17], text[-500:])
    request = urllib.request.Request(f"{s.url}/v1/jobs/{v['id']}/events", headers={"Last-Event-ID": told[-2]["id"]})
    with urllib.request.urlopen(request, timeout=60) as stream:
        rest = stream.read().decode()
    say("events: the rest", rest.count("id: ") == 1 and told[-1]["id"] in rest, rest)
    request = urllib.request.Request(f"{s.url}/v1/jobs/{v['id']}/events", headers={"Last-Event-ID": told[-1]["id"]})
    with urllib.request.urlopen(request, timeout=10) as stream:
        say("events: behind the last one the stream ends", stream.read() == b"")


    for last in "-", "1-2-3", "1-", "x", "99999999999999999999999", "18446744073709551616-0", "0" * 30:
        request = urllib.request.Request(f"{s.url}/v1/jobs/{v['id']}/events", headers={"Last-Event-ID": last})
        with urllib.request.urlopen(request, timeout=10) as stream:
            say(f"events: behind what is no event: {last}", stream.read().decode() == text)


def faults(s):
    _, first, _ = s.create(num_inference_steps=600)
    _, waits, _ = s.create(num_inference_steps=2)
    say("it runs", s.wait(first["id"], ("in_progress",))["status"] == "in_progress")
    status, e, _ = s.call("GET", f"/v1/videos/{first['id']}/content")
    say("no content yet", status == 409, (status, e))
    say("cancelled while it waits", s.call("POST", f"/v1/jobs/{waits['id']}/cancel")[1]["status"] == "cancelled")
    s.call("POST", f"/v1/jobs/{first['id']}/cancel")
    say("cancelled while it runs", s.wait(first["id"])["status"] == "cancelled")
    _, late, _ = s.create(num_inference_steps=1000, deadline=1)
    _, later, _ = s.create(num_inference_steps=2, deadline=1)
    late, later = s.wait(late["id"]), s.wait(later["id"])
    say("a deadline ends a job", late["status"] == "failed" and "deadline" in late["error"]["message"], late)
    say("also one that waits", later["status"] == "failed" and "deadline" in later["error"]["message"], later)
    prompt = "a yellow square moving left on a black background"
    _, v, _ = s.create(prompt=prompt, num_inference_steps=300)
    s.wait(v["id"], ("in_progress",))
    os.kill(s.pool_process(), signal.SIGKILL)
    done = s.wait(v["id"])
    say("a job outlives its pool", done["status"] == "completed" and done["cvx"]["attempts"] == 2, done)
    data = s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)[1]
    say("with the bytes of a calm run", data == plain_run(300, prompt), len(data))


def handed_back(s):
    """A pool that is asked to end, as before a time limit, hands its job back; that is no failed try."""
    prompt = "a yellow square moving left on a black background"
    _, v, _ = s.create(prompt=prompt, num_inference_steps=300)
    for n in range(1, 5):
        s.wait(v["id"], ("in_progress",))
        os.kill(s.pool_process(), signal.SIGUSR1)
        for _ in range(600):
            now = s.call("GET", f"/v1/videos/{v['id']}")[1]
            if now["cvx"]["attempts"] > n or now["status"] == "failed":
                break
            time.sleep(0.05)
    done = s.wait(v["id"])
    say("a job outlives four pools that end", done["status"] == "completed" and done["cvx"]["attempts"] == 5, done)
    data = s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)[1]
    say("and has the bytes of a calm run", data == plain_run(300, prompt), len(data))


def redis_dies(s):
    _, v, _ = s.create(num_inference_steps=250)
    s.wait(v["id"], ("in_progress",))
    subprocess.run(["pkill", "-KILL", "-f", f"redis-server.*{s.data}|redis-server unixsocket:{s.data}"], check=True)
    status, e, told = s.call("GET", "/v1/videos")
    say("503 while Redis is away", status == 503 and told["Retry-After"], (status, e))
    s.wait_ready()
    done = s.wait(v["id"])
    say("a job outlives Redis", done["status"] == "completed" and done["cvx"]["attempts"] == 1, done)


def standalone(s):
    """A run of its own that tells Redis."""
    path = f"{work}/own.mp4"
    run = subprocess.run([f"{os.path.dirname(cvx)}/cvx-rank", "--redis", f"unix://{s.data}/redis/socket", "--model",
                          "models/shapes", "--clip-model", "models/shapes-clip", "--prompt", "a green square",
                          "--num-inference-steps", "2", "--seed", "7", "--output", path, "--quiet"],
                         capture_output=True, text=True)
    v = s.call("GET", "/v1/videos?limit=1")[1]["data"][0]
    say("a run of its own is listed", run.returncode == 0 and v["prompt"] == "a green square" and v["cvx"]["seed"] == 7
        and v["status"] == "completed", (run.stderr, v))
    scored = json.loads(subprocess.run([cvx, "score", "--json", "--clip-model", "models/shapes-clip", "--prompt",
                                        "a green square", path], capture_output=True, text=True).stdout)
    got = v["cvx"]["scores"]["frames"]
    say("with the scores of cvx score", len(got) == 17 and max(abs(a - b) for a, b in zip(got, scored["frames"])) < 1e-3,
        (got, scored["frames"]))
    with open(path, "rb") as f:
        say("and its content", s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)[1] == f.read())
    say("but no thumbnail", s.call("GET", f"/v1/videos/{v['id']}/content?variant=thumbnail")[0] == 409)


def twice(s):
    """A folder has one service: two Redis would write into each other's files."""
    run = subprocess.run([cvx, "serve", "--model", "models/shapes", "--data-dir", s.data, "--port", "0"], capture_output=True,
                         text=True, timeout=100)
    say("a second service on the same folder is refused", run.returncode != 0 and "another cvx serve uses it" in run.stderr and
        len(run.stderr.splitlines()) == 1, run)
    say("and the first goes on", s.call("GET", "/readyz")[0] == 200)


def killed(s):
    """The service is killed: what it started ends, and another one takes over its folder."""
    _, v, _ = s.create(num_inference_steps=250)
    s.wait(v["id"], ("in_progress",))
    s.process.kill()
    s.process.wait()
    t = Service(s.data, "--clip-model", "models/shapes-clip")
    done = t.wait(v["id"])
    say("a job outlives a service that is killed", done["status"] == "completed", done)
    return t


def restart(s):
    _, v, _ = s.create(num_inference_steps=250)
    s.wait(v["id"], ("in_progress",))
    say("SIGTERM ends it well", s.stop() == 0, s.process.returncode)
    t = Service(s.data, "--clip-model", "models/shapes-clip")
    done = t.wait(v["id"])
    say("a job outlives the service", done["status"] == "completed", done)
    killed(t).stop()


service = Service(f"{work}/data", "--clip-model", "models/shapes-clip")
say("ready", service.url is not None)
for part in lifecycle, waits, forms_and_keys, refusals, events, faults, handed_back, redis_dies, standalone, twice, restart:
    part(service)
finish()
