"""What a service of several users needs: keys with limits, lists by state, LoRAs by name, retention, metrics.
usage: serve_keys.py CVX WORK_FOLDER; exits with 1 if anything is wrong."""
import hashlib
import json
import os
import random
import struct
import subprocess
import time

from service import Service, cvx, finish, say, work


class Keyed(Service):
    """Asks with a key."""

    key = "first"

    def call(self, method, path, body=None, headers=None, raw=False):
        return super().call(method, path, body, {"Authorization": f"Bearer {self.key}", **(headers or {})}, raw)


def write_lora(path):
    """A LoRA of rank 2 for the shipped checkpoint, with weights that do something."""
    with open("models/shapes/transformer/config.json") as f:
        config = json.load(f)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    rng, tensors, data = random.Random(5), {}, b""
    for end, shape in ("lora_A", [2, width]), ("lora_B", [width, 2]):
        values = struct.pack("<%df" % (2 * width), *(rng.gauss(0, 0.3) for _ in range(2 * width)))
        tensors[f"transformer.transformer_blocks.0.attn1.to_v.{end}.weight"] = {
            "dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    head = json.dumps(tensors).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + data)


def limits(s):
    answers = [s.create(num_inference_steps=400)]
    for _ in range(100):  # what runs does not wait
        if s.call("GET", "/v1/videos?status=in_progress")[1]["data"]:
            break
        time.sleep(0.1)
    answers += [s.create(num_inference_steps=400) for _ in range(3)]
    made = [v["id"] for status, v, _ in answers if status == 200]
    status, e, told = answers[-1]
    say("more waiting jobs than the key may have", status == 429 and "wait" in e["error"]["message"], (status, e))
    say("with Retry-After", told["Retry-After"] == "5" and e["error"]["type"] == "rate_limit_error", dict(told))
    for state, want in ("queued", 2), ("in_progress", 1):
        for _ in range(100):
            got = s.call("GET", f"/v1/videos?status={state}")[1]["data"]
            if len(got) == want:
                break
            time.sleep(0.1)
        say(f"the list of what is {state}", len(got) == want and all(v["status"] == state for v in got), got)
    status, page, _ = s.call("GET", "/v1/videos?status=queued&limit=1")
    _, rest, _ = s.call("GET", f"/v1/videos?status=queued&limit=1&after={page['last_id']}")
    say("pages of a state", {page["last_id"], rest["last_id"]} <= set(made) and page["has_more"] and not rest["has_more"], rest)
    say("a state that is none", s.call("GET", "/v1/videos?status=done")[0] == 400)
    for video in made:
        s.call("POST", f"/v1/jobs/{video}/cancel")
    for video in made:
        say("cancelled", s.wait(video)["status"] == "cancelled")
    _, rest, _ = s.call("GET", f"/v1/videos?status=cancelled&order=asc&after={made[0]}")
    say("pages behind a job", [v["id"] for v in rest["data"]] == made[1:], rest)
    s.key = "second"
    say("others see none of it", s.call("GET", "/v1/videos")[1]["data"] == [])
    # a minute may end between two requests, then the counting begins anew
    answers = [s.create(num_inference_steps=1) for _ in range(7)]
    codes = [status for status, _, _ in answers]
    say("more jobs in a minute than the key may make", 429 in codes and codes.count(200) >= 3, codes)
    for status, v, _ in answers:
        if status == 200:
            s.wait(v["id"])
    s.key = "third"
    say("no key of ours", s.call("GET", "/v1/videos")[0] == 401)
    s.key = "first"


def lora(s):
    _, plain, _ = s.create(num_inference_steps=2)
    status, v, _ = s.create(num_inference_steps=2, lora=["bold.safetensors:0.7"])
    say("a LoRA by its name", status == 200 and v["cvx"]["lora"] == ["bold.safetensors:0.7"], v)
    say("runs", s.wait(v["id"])["status"] == "completed" and s.wait(plain["id"])["status"] == "completed")
    path = f"{work}/lora.mp4"
    subprocess.run([cvx, "generate", "--model", "models/shapes", "--prompt", v["prompt"], "--num-inference-steps", "2",
                    "--lora", f"{work}/loras/bold.safetensors:0.7", "--output", path, "--quiet"], check=True)
    _, got, _ = s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)
    _, without, _ = s.call("GET", f"/v1/videos/{plain['id']}/content", raw=True)
    with open(path, "rb") as f:
        say("with the bytes of cvx generate", got == f.read() and got != without)
    for name in "../bold.safetensors", "/etc/passwd", "none.safetensors", "bold.safetensors:", "bold.safetensors:x", 5:
        status, e, _ = s.create(lora=name)
        say(f"no LoRA: {name}", (status, e["error"]["param"]) == (400, None if status == 200 else "lora"), (status, e))


def metrics(s):
    _, text, _ = s.call("GET", "/metrics", raw=True)
    lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#")
    say("metrics: jobs by state", int(lines['cvx_jobs{state="cancelled"}']) == 3 and lines['cvx_jobs{state="queued"}'] == "0", lines)
    done = int(lines['cvx_jobs{state="completed"}'])
    for name in "cvx_queue_wait_seconds", "cvx_run_seconds", "cvx_step_seconds":
        buckets = [int(v) for k, v in lines.items() if k.startswith(name + "_bucket")]
        say(f"metrics: {name} grows", buckets == sorted(buckets) and buckets[-1] == int(lines[name + "_count"]) > 0, buckets)
    say("metrics: a run for every completed job", int(lines["cvx_run_seconds_count"]) == done, lines)
    say("metrics: memory", any(k.startswith("cvx_pool_rank_peak_bytes") and int(v) > 10 << 20 for k, v in lines.items()), lines)


def retention(data, keys):
    s = Keyed(data, "--api-keys", keys, "--retention-days", "0.00001")  # about a second
    for _ in range(300):
        if s.call("GET", "/v1/videos")[1]["data"] == [] and os.listdir(f"{data}/jobs") == []:
            break
        time.sleep(0.1)
    say("old jobs are forgotten, with their files", os.listdir(f"{data}/jobs") == [], os.listdir(f"{data}/jobs"))
    _, v, _ = s.create(num_inference_steps=1)
    v = s.wait(v["id"])
    say("expires_at", v.get("expires_at") in (v.get("completed_at"), (v.get("completed_at") or 0) + 1), v)
    s.stop()


def main():
    keys, data = f"{work}/keys", f"{work}/data"
    with open(keys, "w") as f:
        for name, more in ("first", "waiting=2"), ("second", "per_minute=3 waiting=100"):
            f.write(f"{name} {hashlib.sha256(name.encode()).hexdigest()} {more}\n")
    os.mkdir(f"{work}/loras")
    write_lora(f"{work}/loras/bold.safetensors")
    s = Keyed(data, "--api-keys", keys, "--lora-dir", f"{work}/loras")
    for part in limits, lora, metrics:
        part(s)
    say("SIGTERM ends it well", s.stop() == 0, s.process.returncode)
    retention(data, keys)
    finish()


main()
