"""What stands around the key frames, asked of the service: interpolation, enlargement, the best of several, prompts that take
turns, a video that goes on. Each has the bytes that `cvx generate` makes.
usage: serve_stages.py CVX WORK_FOLDER; exits with 1 if anything is wrong."""
import json
import subprocess

from redis import Redis
from service import Service, cvx, finish, say, work

CLIP = ["--clip-model", "models/shapes-clip"]
PROMPT = "a red square standing still on a black background"
TURNS = ["0: " + PROMPT, "20: a blue square standing still on a black background"]
prompts = [a for t in TURNS for a in ("--prompt", t)]


def program(command, *args):
    done = subprocess.run([cvx, command, *args], capture_output=True, text=True)
    say(f"cvx {command}", done.returncode == 0, done.stderr)
    return done.stdout


def same(s, name, fields, args, frames):
    """The job's id."""
    steps = fields.get("num_inference_steps", 2)
    status, v, _ = s.create(prompt=PROMPT, **{"num_inference_steps": steps, **fields})
    say(f"{name}: taken", status == 200, v)
    done = s.wait(v["id"])
    say(f"{name}: completed", done["status"] == "completed" and done["cvx"]["num_frames"] == frames, done)
    _, data, _ = s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)
    with open(f"{work}/{name}.mp4", "wb") as f:
        f.write(data)
    program("generate", "--model", "models/shapes", "--num-inference-steps", str(steps), "--quiet", "--output",
            f"{work}/want.mp4", *args)
    with open(f"{work}/want.mp4", "rb") as f:
        say(f"{name}: the bytes of cvx generate", data == f.read(), len(data))
    say(f"{name}: a score for each frame", len(done["cvx"]["scores"]["frames"]) == frames, done["cvx"]["scores"])
    return done


def scored(name, done, *args):
    want = json.loads(program("score", "--json", *CLIP, *args, f"{work}/{name}.mp4"))["frames"]
    got = done["cvx"]["scores"]["frames"]
    say(f"{name}: the scores of cvx score", max(abs(a - b) for a, b in zip(got, want)) < 0.05, (got, want))


def drifting(data):
    """The numbers of the drifting frames in a FrameScores message (proto/cvx.proto), read by hand: field 4, packed."""
    def varint(at):
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                return value, at

    at, found = 0, []
    while at < len(data):
        tag, at = varint(at)
        if tag & 7 == 1:
            at += 8
            continue
        value, at = varint(at)
        if tag & 7 == 2:
            end = at + value
            while tag >> 3 == 4 and at < end:
                number, at = varint(at)
                found.append(number)
            at = end
    return found


def marks(s):
    """A few frames of another picture, then sixteen of what the prompt says: the first drift, and are marked wherever scores are."""
    other = "a blue circle moving left on a white background"
    _, v, _ = s.create(prompt=other, num_inference_steps=10, num_frames=5)
    s.wait(v["id"])
    _, clip, _ = s.call("GET", f"/v1/videos/{v['id']}/content", raw=True)
    with open(f"{work}/other.mp4", "wb") as f:
        f.write(clip)
    _, v, _ = s.create(prompt=PROMPT, num_inference_steps=10, extend=v["id"], extend_overlap=1)
    done = s.wait(v["id"])
    api = done["cvx"]["scores"]["drift"]
    # one picture passes into the other within a latent, four frames
    say("drift: the frames of another prompt", api[:5] == [0, 1, 2, 3, 4] and max(api) < done["cvx"]["num_frames"] - 12, done["cvx"])
    stored = drifting(Redis(f"{s.data}/redis/socket")("GET", f"cvx:scores:{v['id']}"))
    say("drift: marked in Redis", stored == api, (stored, api))
    program("generate", "--model", "models/shapes", "--prompt", PROMPT, "--num-inference-steps", "10", "--quiet", *CLIP,
            "--extend", f"{work}/other.mp4", "--extend-overlap", "1", "--output", f"{work}/drift.mp4")
    with open(f"{work}/drift.mp4.json") as f:
        written = json.load(f)["scores"]["drift"]["frames"]
    say("drift: marked in the manifest", written == api, (written, api))


service = Service(f"{work}/data", *CLIP)
plain = ["--prompt", PROMPT]
same(service, "stages", {"enable_frame_interpolation": True, "upscale": 2}, [*plain, "--interpolate", "2", "--upscale", "2"], 34)
same(service, "best", {"best_of": 3, "early_stop": 30}, [*plain, *CLIP, "--best-of", "3", "--early-stop", "30"], 17)
same(service, "cache", {"first_block_cache": 0.2, "num_inference_steps": 12},
     [*plain, "--first-block-cache", "0.2"], 17)
long = {"num_frames": 33, "window_frames": 17, "timeline": TURNS}
first = same(service, "turns", long, ["--num-frames", "33", "--window-frames", "17", *prompts], 33)
scored("turns", first, *prompts)
doubled = same(service, "doubled", {**long, "enable_frame_interpolation": True},
               ["--num-frames", "33", "--window-frames", "17", "--interpolate", "2", *prompts], 66)
scored("doubled", doubled, "--prompt", TURNS[0], "--prompt", TURNS[1].replace("20:", "40:"))
more = same(service, "extended", {"extend": first["id"], "extend_overlap": 5},
            [*plain, "--extend", f"{work}/turns.mp4", "--extend-overlap", "5"], 45)
same(service, "alone", {"extend": more["id"], "extend_only": True},
     [*plain, "--extend", f"{work}/extended.mp4", "--extend-only"], 8)
for what, fields, field in [
    ("a video that is not there", {"extend": "video_" + "0" * 32}, "extend"), ("no id", {"extend": 5}, "extend"),
    ("an overlap of 8", {"extend": first["id"], "extend_overlap": 8}, "extend_overlap"),
    ("an overlap of nothing", {"extend_overlap": 5}, "extend_overlap"),
    ("turns without windows", {"timeline": TURNS}, "timeline"), ("one turn", {"window_frames": 17, "timeline": TURNS[:1]}, "timeline"),
    ("turns that are none", {"window_frames": 17, "timeline": "0: x"}, "timeline"),
    ("a cache for windows", {"num_frames": 33, "window_frames": 17, "first_block_cache": 0.1}, "first_block_cache"),
    ("a cache for any change", {"first_block_cache": 2}, "first_block_cache"),
    ("early_stop alone", {"early_stop": 5}, "early_stop"),
]:
    status, e, _ = service.create(prompt=PROMPT, **fields)
    say(f"refused: {what}", status == 400 and e["error"]["param"] == field, (status, e))
status, v, _ = service.call("POST", f"/v1/videos/{first['id']}/remix", {"prompt": PROMPT, "num_inference_steps": 2})
again = service.wait(v["id"])
say("a remix has its own prompt alone", again["status"] == "completed" and again["prompt"] == PROMPT, again)
_, data, _ = service.call("GET", f"/v1/videos/{v['id']}/content", raw=True)
with open(f"{work}/turns.mp4", "rb") as f:
    say("and takes no turns", data != f.read())
marks(service)
say("SIGTERM ends it well", service.stop() == 0)
finish()
