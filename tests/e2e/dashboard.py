"""The dashboard in Chromium, from the prompt to the playing video. Pictures of it go to the folder PICTURES, to be looked at.
usage: dashboard.py CVX WORK_FOLDER PICTURES; exits with 1 if anything is wrong."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import browser
from service import Service, finish, say, work

pictures = sys.argv[3]
WIDE, PHONE = (1280, 900), (390, 844)


def by(name):
    return f"[data-testid={name}]"


def text(b, name):
    return b.js(f"document.querySelector('{by(name)}').innerText")


def seen(name):
    """JavaScript: the element is there and shown."""
    return f"(document.querySelector('{by(name)}') && document.querySelector('{by(name)}').getClientRects().length > 0)"


def status_is(*states):
    return f"{list(states)}.includes(document.querySelector('{by('status')}').className.split(' ')[1])"


def calm(b, name):
    say(f"{name}: no error in the console", b.errors == [], b.errors)
    b.errors.clear()


def accessible(b):
    nameless = b.js("""[...document.querySelectorAll("input, select, textarea, button, [role=slider]")].filter(e =>
        !(e.labels && e.labels.length) && !e.getAttribute("aria-label") && !e.textContent.trim()).map(e => e.outerHTML)""")
    say("every control has a name", nameless == [], nameless)
    same = b.js("(() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.length - new Set(ids).size })()")
    say("every id is one element's", same == 0, same)


def fits(b, name):
    wide = b.js("[document.documentElement.scrollWidth, innerWidth]")
    say(f"{name}: nothing is wider than the screen", wide[0] <= wide[1], wide)


def empty(b, s):
    say("empty: the list says what to do", b.wait(f"document.querySelector('{by('jobs')}').innerText.includes('press Generate')"))
    say("empty: the pool is listed", b.wait(f"{seen('pool')} && document.querySelector('{by('pool')}').innerText.includes('1 rank')"))
    say("empty: with its rank's device", "rank 0 on " in text(b, "pool") and "cpu" in text(b, "pool"), text(b, "pool"))
    say("empty: the model's own values stand in the fields", b.wait("document.querySelector('[name=num_frames]').placeholder === '17'"))
    accessible(b)
    b.picture(f"{pictures}/empty-1280.png")
    b.type(by("prompt"), "a red circle moving right on a white background")
    say("an estimate before anything runs", b.wait("document.querySelector('#estimate').innerText.includes('17 frames of 96x64')"),
        b.js("document.querySelector('#estimate').innerText"))
    b.click("#settings summary")
    b.type("[name=num_frames]", "48")
    b.click(by("submit"))
    say("what cannot be is said", b.wait(f"document.querySelector('{by('form-error')}').innerText.includes('45')"), text(b, "form-error"))
    b.wait("document.querySelector('#estimate').innerText.includes('45')")
    b.errors.clear()  # the browser notes the 400s of the job and of its estimate
    b.type("[name=num_frames]", "")
    b.js("document.querySelector('[name=num_frames]').value = ''")


def create(b, s):
    b.type("[name=num_inference_steps]", "150")
    b.type("[name=seed]", "7")
    b.type("[name=guidance_scale]", "5.5")
    b.type("[name=negative_prompt]", "a blue square")
    b.js("document.querySelector('[name=scheduler]').value = 'ddim'")
    b.js("document.querySelector('[name=frame_interpolation_exp]').value = '1'")
    b.js("document.querySelector('[name=upscale]').value = '2'")
    b.js("document.querySelector('[name=priority]').value = 'high'")
    b.click(by("submit"))
    say("submitted: it is shown", b.wait(f"{seen('title')} && document.querySelector('{by('title')}').innerText.startsWith('a red circle')"))
    video = b.js("location.hash.slice(1)")
    v = s.call("GET", f"/v1/videos/{video}")[1]
    c = v["cvx"]
    say("submitted: with its settings", (c["num_inference_steps"], c["seed"], c["guidance_scale"], c["negative_prompt"], c["priority"],
        c["scheduler"], c["interpolate"], c["upscale"]) == (150, 7, 5.5, "a blue square", "high", "ddim", 2, 2), v)
    say("running: the stage is told", b.wait(f"document.querySelector('{by('stage')}').innerText.startsWith('denoise')"))
    say("running: a preview", b.wait(f"{seen('preview')} && document.querySelector('{by('preview')}').naturalWidth >= 96"))
    first = b.js("document.querySelector('#preview-text').innerText + document.querySelector('[data-testid=preview]').src")
    say("running: the mesh", b.wait("(document.querySelector('[data-name=Mesh]') || {}).innerText === 'one rank'", 20), text(b, "facts"))
    say("running: the pool is busy", b.wait(f"document.querySelector('{by('pool')} .chip').innerText === 'busy'", 10), text(b, "pools"))
    b.picture(f"{pictures}/running-1280.png")
    b.size(*PHONE)
    fits(b, "running, on a phone")
    b.picture(f"{pictures}/running-390.png")
    b.size(*WIDE)
    say("running: the preview goes on",
        b.wait("document.querySelector('#preview-text').innerText + document.querySelector('[data-testid=preview]').src !== " + json.dumps(first)))
    return video


def watch(b, s, video):
    player = f"document.querySelector('{by('video')}')"
    say("completed: the video is there", b.wait(f"{seen('video')} && {player}.readyState >= 2", 180), text(b, "view"))
    at = b.js(f"{player}.currentTime")
    say("completed: it plays", b.wait(f"!{player}.paused && {player}.currentTime !== {at}", 20))
    say("completed: in its size", b.js(f"[{player}.videoWidth, {player}.videoHeight]") == [192, 128])
    scores = s.call("GET", f"/v1/videos/{video}")[1]["cvx"]["scores"]
    points = b.js("document.querySelector('#plot polyline').getAttribute('points').split(' ').length")
    say("the plot has every frame", points == len(scores["frames"]) == 34, points)
    marked = b.js("[...document.querySelectorAll('#plot .drift')].map(e => Number(e.dataset.frame))")
    say("the plot marks what drifts", marked == scores["drift"], (marked, scores["drift"]))
    say("the scores in words", f"mean {scores['mean']:.1f}" in text(b, "scores"), text(b, "scores"))
    b.picture(f"{pictures}/completed-1280.png")
    b.click(by("plot"), 0.5)
    frame = f"Math.floor({player}.currentTime / ({player}.duration / 34))"
    say("a click on the plot seeks", b.wait(f"{player}.paused && Math.abs({frame} - 17) <= 1", 10), b.js(frame))
    b.js("document.querySelector('#plot').focus()")
    b.key("Home")
    b.key("ArrowRight")
    b.key("ArrowRight")
    say("arrow keys go from frame to frame", b.wait(f"{frame} === 2", 10), b.js(frame))
    say("and tell it", "frame 2" in b.js("document.querySelector('#plot').getAttribute('aria-valuetext')"))
    accessible(b)
    calm(b, "from the prompt to the video")
    # frames that drift: those of this video, or others put in their place
    b.js("showScores({ ...current, cvx: { ...current.cvx, scores: { mean: 30, frames: [...Array(34).keys()].map(i => i === 20 ? 12 : 30 + Math.sin(i)), drift: [20] } } })")
    b.click("#drift button")
    say("a drifting frame's number seeks to it", b.wait(f"{frame} === 20", 10), b.js(frame))
    b.picture(f"{pictures}/drift-1280.png")


def remix(b, s, video):
    b.click(by("remix"))
    b.type(by("remix-prompt"), "a blue square standing still on a gray background")
    b.click(by("remix-ok"))
    say("remix: it is shown", b.wait(f"document.querySelector('{by('title')}').innerText.startsWith('a blue square')"))
    again = b.js("location.hash.slice(1)")
    v = s.call("GET", f"/v1/videos/{again}")[1]
    say("remix: of the first, with its settings", (v["remixed_from_video_id"], v["cvx"]["seed"]) == (video, 7), v)
    say("remix: runs", b.wait(status_is("in_progress")))
    _, next_one, _ = s.create(num_inference_steps=1)
    say("the list tells when a job begins", b.wait(f"document.querySelector('{by('jobs')}').innerText.includes('begins in about')"), text(b, "jobs"))
    s.call("POST", f"/v1/jobs/{next_one['id']}/cancel")
    s.call("DELETE", f"/v1/videos/{next_one['id']}")
    b.click(by("cancel"))
    say("cancel", b.wait(status_is("cancelled")), text(b, "status"))
    say("cancelled also there", s.wait(again)["status"] == "cancelled")
    b.click(by("copy"))
    say("its settings in the form", b.js("document.querySelector('[name=prompt]').value").startswith("a blue square")
        and b.js("document.querySelector('[name=seed]').value") == "7")
    b.click(by("delete"))
    b.click(by("delete"))
    say("deleted", b.wait(f"!{seen('view')}") and s.call("GET", f"/v1/videos/{again}")[0] == 404)
    calm(b, "remix, cancel, delete")


def foreign_words(b, s):
    """Others' prompts are text, whatever is in them."""
    bad = '<img src=x onerror="window.owned = 1"><script>window.owned = 1</script><b>bold</b> "quoted" \'single\' & more'
    _, v, _ = s.create(prompt=bad, num_inference_steps=1, negative_prompt=bad)
    s.wait(v["id"])
    say("a prompt of HTML: in the list", b.wait(f"[...document.querySelectorAll('{by('job')}')].some(e => e.innerText.includes('<img src=x'))"))
    b.js(f"[...document.querySelectorAll('{by('job')}')].find(e => e.dataset.key === '{v['id']}').focus()")
    b.key("Enter")  # with the keyboard alone
    say("a prompt of HTML: as its title", b.wait(f"document.querySelector('{by('title')}').textContent === {json.dumps(bad)}"), text(b, "title"))
    say("a prompt of HTML: plays", b.wait(f"{seen('video')} && document.querySelector('{by('video')}').readyState >= 2"))
    say("a prompt of HTML: nothing of it runs", b.js("window.owned === undefined && !document.querySelector('main b, main script, #title img')"))
    b.js("document.querySelector('form#form').reset()")
    b.click(by("extend"))
    b.type(by("prompt"), "a red circle moving right on a white background")
    b.type("[name=num_inference_steps]", "2")
    say("to go on: the first video's id", b.js("document.querySelector('[name=extend]').value") == v["id"])
    b.click(by("submit"))
    say("to go on: plays", b.wait(f"document.querySelector('{by('title')}').textContent.startsWith('a red circle') && {seen('video')} && "
                                  f"document.querySelector('{by('video')}').readyState >= 2", 90), text(b, "form-error"))
    longer = s.call("GET", f"/v1/videos/{b.js('location.hash.slice(1)')}")[1]
    say("to go on: is longer", longer["status"] == "completed" and longer["cvx"]["num_frames"] > 17, longer)
    b.js(f"[...document.querySelectorAll('{by('job')}')].find(e => e.dataset.key === '{v['id']}').focus()")
    b.key("Enter")
    b.wait(f"document.querySelector('{by('title')}').textContent === {json.dumps(bad)} && {seen('video')}")
    calm(b, "a prompt of HTML, a video that goes on")
    b.size(*PHONE)
    fits(b, "completed, on a phone")
    b.picture(f"{pictures}/completed-390.png")
    b.size(*WIDE)


def long_videos(b, s):
    """Prompts that take turns by windows, then the end of that video gone on from, with the form's fields alone."""
    turns = ["0: a red square standing still on a black background", "17: a blue square standing still on a black background"]
    b.js("form.reset()")
    b.js("document.querySelector('#settings').open = true, document.querySelector('#long').open = true")
    b.type(by("prompt"), "two squares")
    for name, value in (("num_inference_steps", "4"), ("num_frames", "33"), ("timeline", "\n".join(turns)), ("window_stride", "8")):
        b.type(f"[name={name}]", value)
    b.click(by("submit"))
    say("turns: without windows it is said", b.wait(f"document.querySelector('{by('form-error')}').innerText.includes('window_frames')"), text(b, "form-error"))
    b.type("[name=window_frames]", "17")
    say("turns: an estimate", b.wait("document.querySelector('#estimate').innerText.includes('33 frames of 96x64')"),
        b.js("document.querySelector('#estimate').innerText"))
    b.errors.clear()  # the browser notes the 400s of the job and of its estimate
    b.picture(f"{pictures}/turns-form-1280.png")
    b.size(*PHONE)
    fits(b, "the form of a long video, on a phone")
    b.picture(f"{pictures}/turns-form-390.png")
    b.size(*WIDE)
    b.click(by("submit"))
    first = finished(b, s, "two squares", "turns")
    say("turns: as they were typed", (first["cvx"]["num_frames"], first["cvx"]["options"]) ==
        (33, {"window_frames": 17, "window_stride": 8, "timeline": turns}), first)
    say("turns: they stand beside the video", b.js("document.querySelector('[data-name=Turns]').innerText") == "; ".join(turns), text(b, "facts"))
    b.picture(f"{pictures}/turns-1280.png")
    b.js("form.reset()")
    b.click(by("copy"))
    say("turns: into the form again", b.js("[...['timeline', 'window_frames', 'num_frames'].map(n => form.elements[n].value)]") ==
        ["\n".join(turns), "17", "33"] and b.js("document.querySelector('#long').open"))

    b.js("form.reset()")
    b.click(by("extend"))
    b.type(by("prompt"), "the blue square stays")
    for name, value in (("num_inference_steps", "4"), ("extend_overlap", "5")):
        b.type(f"[name={name}]", value)
    b.click("[name=extend_only]")
    b.picture(f"{pictures}/extend-form-1280.png")
    b.click(by("submit"))
    rest = finished(b, s, "the blue square stays", "going on")
    say("going on: its new frames alone, as it was filled in", (rest["cvx"]["num_frames"], rest["cvx"]["options"]) ==
        (12, {"extend": first["id"], "extend_overlap": 5, "extend_only": True}), rest)
    b.click(by("copy"))
    say("going on: into the form again", b.js("[form.elements.extend.value, form.elements.extend_overlap.value, form.elements.extend_only.checked]") ==
        [first["id"], "5", True])
    b.picture(f"{pictures}/extended-1280.png")
    b.size(*PHONE)
    fits(b, "a video that goes on, on a phone")
    b.picture(f"{pictures}/extended-390.png")
    b.size(*WIDE)
    b.click("[data-name='Goes on from'] button")
    say("going on: a way to the first", b.wait(f"document.querySelector('{by('title')}').innerText === 'two squares' && location.hash === '#{first['id']}'"))
    b.js("form.reset()")
    calm(b, "long videos")


def finished(b, s, title, name):
    """The shown job once its video plays."""
    say(f"{name}: plays", b.wait(f"document.querySelector('{by('title')}').innerText === '{title}' && {seen('video')} && "
                                 f"document.querySelector('{by('video')}').readyState >= 2", 180), text(b, "form-error"))
    return s.call("GET", f"/v1/videos/{b.js('location.hash.slice(1)')}")[1]


def redis_away(b, s):
    pids = subprocess.run(["pgrep", "-f", f"redis-server.*{s.data}|redis-server unixsocket:{s.data}"], capture_output=True,
                          text=True).stdout.split()
    for p in pids:
        os.kill(int(p), signal.SIGSTOP)
    say("Redis away: the page says it", b.wait("!document.querySelector('#notice').hidden && document.querySelector('#notice').innerText.includes('Redis')", 40))
    b.picture(f"{pictures}/away-1280.png")
    for p in pids:
        os.kill(int(p), signal.SIGCONT)
    say("Redis back: the page goes on", b.wait("document.querySelector('#notice').hidden", 40))
    b.errors.clear()  # the 503s
    s.stop()
    say("the service away: the page says it", b.wait("document.querySelector('#notice').innerText.includes('does not answer')", 40))


def keys_and_pictures(b):
    """A service that wants a key, with a model that wants a first frame; in the dark, on a phone."""
    with open(f"{work}/keys", "w") as f:
        f.write(f"somebody {hashlib.sha256(b'the right one').hexdigest()}\n")

    class Keyed(Service):
        def call(self, method, path, body=None, headers=None, raw=False):
            return super().call(method, path, body, {"Authorization": "Bearer the right one"}, raw)

    data = "tests/data/variants/tiny-5b-i2v"
    s = Keyed(f"{work}/keyed", "--api-keys", f"{work}/keys", "--model", data)
    b.open(s.url, *PHONE, dark=True)
    say("a key is asked for", b.wait(seen("key")))
    b.type(by("key"), "a wrong one")
    b.key("Enter")
    say("a wrong key is not taken", b.wait(f"{seen('key')} && document.querySelector('#key-text').innerText.includes('not one')"),
        b.js("document.querySelector('#keys').innerText"))
    b.picture(f"{pictures}/key-390-dark.png")
    b.type(by("key"), "the right one")
    b.click(by("key-ok"))
    say("the right key", b.wait(f"!{seen('key')} && document.querySelector('{by('jobs')}').innerText.includes('press Generate')"))
    b.errors.clear()  # the 401s
    b.type(by("prompt"), "anything at all")
    b.attach(by("image"), f"{data}/input.png")
    say("a picture is shown before it is sent", b.wait("document.querySelector('#picture img').naturalWidth > 0"))
    b.js("document.querySelector('#settings').open = true")
    b.type("[name=num_inference_steps]", "2")
    b.type("[name=lora]", "no-such.safetensors")
    b.click(by("submit"))
    say("a LoRA that is not there", b.wait(f"document.querySelector('{by('form-error')}').innerText.includes('lora')"), text(b, "form-error"))
    b.errors.clear()
    b.js("document.querySelector('[name=lora]').value = ''")
    b.click(by("submit"))
    say("a picture begins a video", b.wait(f"{seen('video')} && document.querySelector('{by('video')}').readyState >= 2", 120), text(b, "form-error"))
    v = s.call("GET", f"/v1/videos/{b.js('location.hash.slice(1)')}")[1]
    say("with the picture", v["status"] == "completed" and v["cvx"]["input_reference"] is True, v)
    fits(b, "dark, on a phone")
    calm(b, "with a key and a picture")
    b.picture(f"{pictures}/picture-390-dark.png")
    b.size(*WIDE)
    time.sleep(0.3)
    b.picture(f"{pictures}/picture-1280-dark.png")
    s.stop()


def main():
    os.makedirs(pictures, exist_ok=True)
    s = Service(f"{work}/data", "--clip-model", "models/shapes-clip")
    b = browser.Browser(browser.find())
    try:
        b.open(s.url, *WIDE)
        empty(b, s)
        video = create(b, s)
        watch(b, s, video)
        remix(b, s, video)
        foreign_words(b, s)
        long_videos(b, s)
        redis_away(b, s)
        keys_and_pictures(b)
    finally:
        b.close()
    finish()


main()
