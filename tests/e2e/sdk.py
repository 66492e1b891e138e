"""OpenAI's Python SDK, unmodified, against the service: videos with and without a picture, sync and async.
usage: sdk.py CVX WORK_FOLDER; exits with 1 if anything is wrong."""
import asyncio
import base64
import hashlib
import os
import struct
import warnings
import zlib

import openai
from prometheus_client.parser import text_string_to_metric_families

from service import Service, finish, say, work

warnings.simplefilter("ignore", DeprecationWarning)
PROMPT = "a red circle moving right on a white background"
FEW = {"num_inference_steps": 2}


def png(path, w=96, h=64):
    """A picture of two colours."""
    rows = b"".join(b"\0" + (b"\xff\0\0" if y < h // 2 else b"\0\0\xff") * w for y in range(h))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) +
                chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def refused(name, kind, call, param=None):
    """The SDK's exception of a call that must fail."""
    try:
        got = call()
    except openai.APIStatusError as e:
        say(name, isinstance(e, kind) and (param is None or e.param == param), (type(e), e.param, str(e)))
        return e
    say(name, False, got)
    return None


def lifecycle(c):
    v = c.videos.create_and_poll(prompt=PROMPT, extra_body=FEW, poll_interval_ms=200)
    say("create_and_poll", v.status == "completed" and v.progress == 100 and v.object == "video", v)
    say("of the service's model", v.model == "shapes" and v.size == "96x64" and v.seconds == "2.125", v)
    for variant, magic in ("video", b"ftyp"), ("thumbnail", b"PNG"), ("spritesheet", b"PNG"):
        data = c.videos.download_content(v.id, variant=variant).read()
        say(f"download_content: {variant}", magic in data[:12], data[:20])
    path = f"{work}/streamed.mp4"
    with c.videos.with_streaming_response.download_content(v.id) as answer:
        answer.stream_to_file(path)
    with open(path, "rb") as f:
        say("streamed: the same bytes", f.read() == c.videos.download_content(v.id).read())
    again = c.videos.remix(v.id, prompt="a blue square", extra_body={"seed": 7})
    say("remix", again.remixed_from_video_id == v.id and again.prompt == "a blue square" and again.cvx["seed"] == 7
        and again.cvx["num_inference_steps"] == 2, again)
    return v, c.videos.poll(again.id)


def extensions(c):
    """The fields that other servers of this API take."""
    body = {"negative_prompt": "a blue circle", "num_inference_steps": 3, "guidance_scale": 4.5, "seed": 11,
            "num_frames": 9, "fps": 12, "width": 64, "height": 64, "scheduler": "unipc", "priority": "low",
            "enable_frame_interpolation": True, "frame_interpolation_exp": 1, "upscale": 2, "lora": None,
            "use_dynamic_cfg": True}
    v = c.videos.create(prompt=PROMPT, model="shapes", extra_body=body)
    x = v.cvx
    say("extra_body: every field arrives", (x["negative_prompt"], x["num_inference_steps"], x["guidance_scale"], x["seed"],
        x["num_frames"], x["fps"], x["width"], x["height"], x["scheduler"], x["priority"], x["interpolate"], x["upscale"])
        == ("a blue circle", 3, 4.5, 11, 9, 12, 64, 64, "unipc", "low", 2, 2), v)
    raw = c.videos.with_raw_response.retrieve(v.id)
    say("openai-poll-after-ms", int(raw.headers["openai-poll-after-ms"]) > 0, dict(raw.headers))
    c.post(f"/jobs/{v.id}/cancel", cast_to=object)
    v2 = c.videos.create(prompt=PROMPT, size="64x64", seconds="1", extra_body={"num_inference_steps": 400})
    say("size and seconds", v2.size == "64x64" and v2.cvx["num_frames"] == 9, v2)
    plan = c.post("/plan", body={"prompt": "x", "num_frames": 17}, cast_to=object)
    say("plan", plan["num_frames"] == 17 and plan["needed_bytes"] > 1 << 20, plan)
    return v, v2


def lists(c, made):
    page = c.videos.list(limit=2)
    say("list: a page", len(page.data) == 2 and page.has_more, page)
    everything = [v.id for v in c.videos.list(limit=2)]
    say("list: all pages", everything == [v.id for v in reversed(made)], (everything, made))
    behind = [v.id for v in c.videos.list(order="asc", after=made[0].id)]
    say("list: behind one, ascending", behind == [v.id for v in made[1:]], behind)
    models = [m.id for m in c.models.list()]
    say("models", models == ["shapes"] and c.models.retrieve("shapes").owned_by == "cvx", models)


def errors(c, url, v, waits):
    none = "video_" + "0" * 32
    refused("no such video", openai.NotFoundError, lambda: c.videos.retrieve(none), "id")
    refused("no such model", openai.NotFoundError, lambda: c.models.retrieve("sora-2"), "model")
    refused("48 frames", openai.BadRequestError, lambda: c.videos.create(prompt="x", extra_body={"num_frames": 48}), "num_frames")
    refused("an unknown field", openai.BadRequestError, lambda: c.videos.create(prompt="x", extra_body={"stepz": 4}), "stepz")
    refused("another model", openai.BadRequestError, lambda: c.videos.create(prompt="x", model="sora-2"), "model")
    refused("an empty prompt", openai.BadRequestError, lambda: c.videos.create(prompt=""), "prompt")
    refused("a wrong variant", openai.BadRequestError, lambda: c.videos.download_content(v.id, variant="x"), "variant")
    refused("not yet", openai.ConflictError, lambda: c.videos.download_content(waits.id))
    with openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0) as other:
        e = refused("a wrong key", openai.AuthenticationError, lambda: other.videos.list())
        say("with its header", e is not None and e.response.headers["WWW-Authenticate"] == "Bearer")
    with open(png(f"{work}/picture.png"), "rb") as f:
        refused("a picture for a text-to-video model", openai.BadRequestError,
                lambda: c.videos.create(prompt="x", input_reference=f), "input_reference")


def metrics(s):
    """Prometheus' own reader takes /metrics, and finds what operators watch."""
    text = s.call("GET", "/metrics", raw=True)[1].decode()
    families = list(text_string_to_metric_families(text))
    kinds = {(f.name, f.type) for f in families}
    want = {("cvx_jobs", "gauge"), ("cvx_jobs", "counter"), ("cvx_queue_wait_seconds", "histogram"), ("cvx_run_seconds", "histogram"),
            ("cvx_step_seconds", "histogram"), ("cvx_sent_bytes", "counter"), ("cvx_pools", "gauge"), ("cvx_ranks", "gauge"), ("cvx_pools_lost", "counter"),
            ("cvx_pool_heartbeat_age_seconds", "gauge"), ("cvx_pool_rank_peak_bytes", "gauge"), ("cvx_redis_up", "gauge"), ("cvx_build_info", "gauge"),
            ("cvx_http_requests", "counter"), ("cvx_http_request_seconds", "histogram"), ("process_resident_memory_bytes", "gauge")}
    say("metrics: all families", want <= kinds, want - kinds)
    say("metrics: each has a help and values", all(f.documentation and f.samples for f in families), [f.name for f in families if not f.samples])
    for f in families:
        if f.type == "histogram":
            buckets = [x.value for x in f.samples if x.name.endswith("_bucket")]
            count = [x.value for x in f.samples if x.name.endswith("_count")]
            say(f"metrics: {f.name} grows to its count", buckets == sorted(buckets) and buckets[-1:] == count, f.samples)
    states = {x.labels["state"]: x.value for f in families if (f.name, f.type) == ("cvx_jobs", "gauge") for x in f.samples}
    say("metrics: jobs by state", states["completed"] >= 2 and set(states) == {"queued", "in_progress", "completed", "failed", "cancelled"}, states)


async def asynchronous(url):
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="secret", max_retries=0) as c:
        v = await c.videos.create_and_poll(prompt=PROMPT, extra_body=FEW, poll_interval_ms=200)
        say("async: create_and_poll", v.status == "completed", v)
        data = (await c.videos.download_content(v.id)).read()
        say("async: download_content", b"ftyp" in data[:12])
        seen = [x.id async for x in c.videos.list(limit=1)]
        say("async: list", v.id == seen[0] and len(seen) == len(set(seen)), seen)
        try:
            await c.videos.retrieve("video_" + "0" * 32)
            say("async: no such video", False)
        except openai.NotFoundError as e:
            say("async: no such video", e.type == "invalid_request_error")
        gone = await c.videos.delete(v.id)
        say("async: delete", gone.deleted and gone.object == "video.deleted", gone)


def text_to_video(keys):
    s = Service(f"{work}/t2v", "--api-keys", keys)
    with openai.OpenAI(base_url=s.url + "/v1", api_key="secret", max_retries=0) as c:
        first, again = lifecycle(c)
        small, waits = extensions(c)
        lists(c, [first, again, small, waits])
        errors(c, s.url, first, waits)
        metrics(s)
        c.post(f"/jobs/{waits.id}/cancel", cast_to=object)
        gone = c.videos.delete(first.id)
        say("delete", gone.deleted and gone.id == first.id, gone)
        refused("it is gone", openai.NotFoundError, lambda: c.videos.retrieve(first.id))
    asyncio.run(asynchronous(s.url))
    s.stop()


def data_urls(c, first, more):
    """The picture of a video as a text: by the SDK, which sends a form, and in JSON."""
    with open(f"{work}/picture.png", "rb") as f:
        url = "data:image/png;base64," + base64.b64encode(f.read()).decode()
    fields = {"prompt": "x", "size": "96x64", **more}
    videos = [c.videos.create(prompt="x", size="96x64", extra_body={**more, "input_reference": {"image_url": url}}).id,
              *(c.post("/videos", body={**fields, "input_reference": how}, cast_to=object)["id"] for how in (url, {"image_url": url}))]
    want = c.videos.download_content(first.id).read()
    for how, video in zip(("the SDK's form", "JSON", "JSON with image_url"), videos):
        done = c.videos.poll(video)
        say(f"a data URL in {how}: the same video", done.status == "completed" and c.videos.download_content(video).read() == want, done)
        c.videos.delete(video)
    for name, how in ("another place's", {"image_url": "http://127.0.0.1/x.png"}), ("half of one", {"image_url": url[:-5] + "="}), ("no picture", {"image_url": "data:image/png;base64,QUJD"}), (
            "a number", 5), ("two", {"image_url": url, "file_id": "x"}):
        refused(f"a data URL that is {name}", openai.BadRequestError,
                lambda: c.post("/videos", body={**fields, "input_reference": how}, cast_to=object), "input_reference")
    refused("a data URL of another place by the SDK", openai.BadRequestError, lambda: c.videos.create(
        prompt="x", extra_body={**more, "input_reference": {"image_url": "http://127.0.0.1/x.png"}}), "input_reference")


def image_to_video(keys):
    s = Service(f"{work}/i2v", "--api-keys", keys, model="tests/data/variants/tiny-5b-i2v")
    with openai.OpenAI(base_url=s.url + "/v1", api_key="secret", max_retries=0) as c:
        more = {"num_inference_steps": 2, "num_frames": 9}
        refused("no picture for an image-to-video model", openai.BadRequestError,
                lambda: c.videos.create(prompt="x", size="96x64", extra_body=more), "input_reference")
        with open(png(f"{work}/picture.png"), "rb") as f:
            v = c.videos.create(prompt="x", size="96x64", input_reference=f, extra_body=more)
        say("input_reference", v.cvx["input_reference"] is True, v)
        v = c.videos.poll(v.id)
        say("input_reference: completed", v.status == "completed", v)
        data_urls(c, v, more)
        again = c.videos.remix(v.id, prompt="y")
        say("a remix begins with the same picture", again.cvx["input_reference"] and c.videos.poll(again.id).status == "completed", again)
        c.videos.delete(v.id)
        say("which is kept while one needs it", len(os.listdir(f"{work}/i2v/uploads")) == 1, os.listdir(f"{work}/i2v/uploads"))
        c.videos.delete(again.id)
        say("and no longer", os.listdir(f"{work}/i2v/uploads") == [])
        for name, data in ("text", b"no picture at all"), ("a cut PNG", open(f"{work}/picture.png", "rb").read()[:60]):
            refused(f"{name} for a picture", openai.BadRequestError, lambda: c.videos.create(
                prompt="x", size="96x64", input_reference=("x.png", data, "image/png"), extra_body=more), "input_reference")
        say("which is not kept", os.listdir(f"{work}/i2v/uploads") == [])
    s.stop()


def main():
    keys = f"{work}/keys"
    with open(keys, "w") as f:
        f.write(f"me {hashlib.sha256(b'secret').hexdigest()}\n")
    text_to_video(keys)
    image_to_video(keys)
    finish()


main()
