"""Bad input, as a table: what is wrong, and what the one line of the answer must name.

    errors.py path/to/cvx

Each case gets a copy of a tiny checkpoint, breaks something, and runs `cvx generate` on it.
"""
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

DATA = "tests/data"
TINY = f"{DATA}/variants/tiny-2b"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
CASES = []


def case(name, names, *args, model=TINY, limit=None, output="out.mp4"):
    """A decorated function breaks the checkpoint copy `d`; without one (see plain) only the arguments are bad.
    names: regular expression the message must match. limit: bytes any one file may grow to."""
    def add(breaker):
        CASES.append((name, names, list(args), model, limit, output, breaker))
        return breaker
    return add


def plain(name, names, *args, **more):
    case(name, names, *args, **more)(lambda d: None)


def split(path):
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + n]), data[8 + n:]


def join(path, header, body, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text) if size is None else size) + text + body)


def weights(name, names):
    """A case whose function changes (header, body) of the transformer's file and returns what to write."""
    def add(change):
        def breaker(d):
            path = f"{d}/{TRANSFORMER}"
            header, body = split(path)
            join(path, *change(header, body))
        case(name, names)(breaker)
        return change
    return add


def config(part, name, names, **keys):
    def breaker(d):
        path = f"{d}/{part}"
        with open(path) as f:
            c = json.load(f)
        c.update(keys)
        with open(path, "w") as f:
            json.dump(c, f)
    case(name, names)(breaker)


def write(name, names, part, content):
    def breaker(d):
        with open(f"{d}/{part}", "wb") as f:
            f.write(content)
    case(name, names)(breaker)


def remove(name, names, part):
    def breaker(d):
        path = f"{d}/{part}"
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    case(name, names)(breaker)


# --- safetensors -----------------------------------------------------------------------------------------------
def first(header):
    return next(n for n in header if n != "__metadata__")


def two(header):
    names = [n for n in header if n != "__metadata__"]
    return names[0], names[1]


@weights("data cut short", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    return h, b[:-100]


@weights("bytes after the data", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    return h, b + b"\0" * 64


@weights("header longer than the file", r"diffusion_pytorch_model\.safetensors.*header")
def _(h, b):
    return h, b, len(b) * 2


@weights("header of 2^60 bytes", r"diffusion_pytorch_model\.safetensors.*header")
def _(h, b):
    return h, b, 1 << 60


@weights("header is not JSON", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    return b'{"a": ' + b" " * 100, b


@weights("header is a list", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    return b"[1, 2, 3]", b


@weights("header nested 100000 deep", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    return b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}", b


@weights("tensors that overlap", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    x, y = two(h)
    size = h[y]["data_offsets"][1] - h[y]["data_offsets"][0]
    start = h[x]["data_offsets"][0]
    h[y]["data_offsets"] = [start, start + size]
    return h, b


@weights("offset past the end", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    n = first(h)
    h[n]["data_offsets"] = [v + len(b) for v in h[n]["data_offsets"]]
    return h, b


@weights("offsets backwards", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    n = first(h)
    h[n]["data_offsets"].reverse()
    return h, b


@weights("negative offset", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    h[first(h)]["data_offsets"][0] = -8
    return h, b


@weights("dims whose product overflows", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    h[first(h)]["shape"] = [1 << 40, 1 << 40]
    return h, b


@weights("negative dim", r"diffusion_pytorch_model\.safetensors")
def _(h, b):
    h[first(h)]["shape"] = [-1, -1]
    return h, b


@weights("unknown dtype", r"F4X")
def _(h, b):
    h[first(h)]["dtype"] = "F4X"
    return h, b


@weights("a weight of whole numbers", r"patch_embed\.proj\.weight.*")
def _(h, b):
    h["patch_embed.proj.weight"]["dtype"] = "I16"
    return h, b


@weights("a weight of another shape", r"patch_embed\.proj\.weight")
def _(h, b):
    h["patch_embed.proj.weight"]["shape"].reverse()
    return h, b


@weights("a weight that is missing", r"proj_out\.weight")
def _(h, b):
    h["other"] = h.pop("proj_out.weight")
    return h, b


write("empty weight file", r"diffusion_pytorch_model\.safetensors", TRANSFORMER, b"")
write("weight file of 5 bytes", r"diffusion_pytorch_model\.safetensors", TRANSFORMER, b"\1\2\3\4\5")
remove("no weight file", r"transformer", TRANSFORMER)


def shards(d):
    shutil.rmtree(f"{d}/transformer")
    subprocess.run([sys.executable, "tests/shards.py", f"{TINY}/{TRANSFORMER}", f"{DATA}/extra/sharded-2b",
                    f"{d}/transformer"], check=True)
    return f"{d}/transformer/diffusion_pytorch_model.safetensors.index.json"


@case("a shard that is missing", r"00003-of-00004")
def _(d):
    os.remove(shards(d).replace(".safetensors.index.json", "-00003-of-00004.safetensors"))


@case("a shard that lacks its tensor", r"proj_out\.weight")
def _(d):
    path = shards(d)
    with open(path) as f:
        index = json.load(f)
    shard = f"{d}/transformer/{index['weight_map']['proj_out.weight']}"
    header, body = split(shard)
    header["other"] = header.pop("proj_out.weight")
    join(shard, header, body)


@case("a shard outside the folder", r"index\.json")
def _(d):
    path = shards(d)
    with open(path) as f:
        index = json.load(f)
    index["weight_map"]["proj_out.weight"] = "../vae/diffusion_pytorch_model.safetensors"
    with open(path, "w") as f:
        json.dump(index, f)


@case("a broken index", r"index\.json")
def _(d):
    with open(shards(d), "w") as f:
        f.write('{"weight_map": ')


# --- configs and tokenizer -------------------------------------------------------------------------------------
for part in ("transformer/config.json", "vae/config.json", "text_encoder/config.json",
             "scheduler/scheduler_config.json", "model_index.json"):
    write(f"{part}: cut short", re.escape(part), part, b'{"num_layers": 2,')
    write(f"{part}: empty", re.escape(part), part, b"")
    write(f"{part}: nested 100000 deep", re.escape(part), part, b'{"a":' * 100000)
    remove(f"{part}: missing", re.escape(part), part)
for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
    remove(f"{part}/: missing", part, part)
write("a config that is a list", r"transformer/config\.json", "transformer/config.json", b"[]")
config("transformer/config.json", "num_layers is text", r"num_layers", num_layers="two")
config("transformer/config.json", "num_layers is 10^12", r"num_layers", num_layers=10**12)
config("transformer/config.json", "no heads", r"num_attention_heads", num_attention_heads=0)
config("transformer/config.json", "text width differs from the encoder's", r"text_embed_dim", text_embed_dim=47)
config("transformer/config.json", "a layer too many", r"transformer_blocks\.2", num_layers=3)
config("vae/config.json", "block_out_channels is a number", r"block_out_channels", block_out_channels=8)
config("vae/config.json", "groups that do not divide", r"norm_num_groups", norm_num_groups=7)
config("vae/config.json", "scaling_factor 0", r"scaling_factor", scaling_factor=0)
config("scheduler/scheduler_config.json", "a schedule of 10^12 steps", r"num_train_timesteps", num_train_timesteps=10**12)
config("model_index.json", "another kind of pipeline", r"FluxPipeline", _class_name="FluxPipeline")
write("tokenizer: not a model", r"spiece\.model", "tokenizer/spiece.model", b"\xff\x00" * 500)
write("tokenizer: empty", r"spiece\.model", "tokenizer/spiece.model", b"")
plain("no such checkpoint", r"/nowhere", "--model", "/nowhere")

# --- arguments -------------------------------------------------------------------------------------------------
plain("prompt that is not UTF-8", r"prompt.*UTF-8", "--prompt", b"a red \xff circle")
plain("prompt with an overlong form", r"prompt.*UTF-8", "--prompt", b"\xc0\xaf")
plain("negative prompt that is not UTF-8", r"negative.prompt.*UTF-8", "--negative-prompt", b"\xed\xa0\x80")
plain("frames 10", r"10.*9.*13", "--num-frames", "10")
plain("frames -3", r"num-frames", "--num-frames", "-3")
plain("height 50", r"50.*48.*64", "--height", "50")
plain("width 0", r"width", "--width", "0")
plain("a size that cannot fit", r"(?i)memory|fit|MiB|GiB", "--height", "16384", "--width", "16384", "--num-frames", "4001")
plain("0 steps", r"num-inference-steps", "--num-inference-steps", "0")
plain("1001 steps", r"1001.*1000", "--num-inference-steps", "1001")
plain("61 steps: diffusers leaves its schedule", r"61.*60.*62", "--num-inference-steps", "61")
plain("guidance nan", r"guidance-scale", "--guidance-scale", "nan")
plain("seed abc", r"seed.*abc", "--seed", "abc")
plain("seed of 30 digits", r"seed", "--seed", "9" * 30)
plain("unknown flag, the nearest named", r"--promt.*--prompt", "--promt", "x")
plain("unknown scheduler", r"euler", "--scheduler", "euler")
plain("missing value", r"--seed", "--seed")
plain("a positional argument", r"surplus", "surplus")
plain("0 threads", r"threads", "--threads", "0")
plain("fps 0", r"fps", "--fps", "0")
plain("strength 0", r"strength", "--video", f"{DATA}/extra/v2v-input", "--strength", "0")
plain("image and video", r"--image and --video", "--image", "a.png", "--video", "b.mp4")
plain("no such image", r"nowhere\.png", "--image", "nowhere.png", model=f"{DATA}/variants/tiny-5b-i2v")
plain("an image where none is wanted", r"(?i)image", "--image", f"{DATA}/variants/tiny-5b-i2v/input.png")
plain("image-to-video without an image", r"--image", model=f"{DATA}/variants/tiny-5b-i2v")
plain("an image that is none", r"model_index\.json", "--image", f"{TINY}/model_index.json",
      model=f"{DATA}/variants/tiny-5b-i2v")
plain("no such video", r"nowhere\.mp4", "--video", "nowhere.mp4")
plain("a video that is none", r"model_index\.json", "--video", f"{TINY}/model_index.json")
plain("a folder without images as video", r"scheduler", "--video", f"{TINY}/scheduler")
plain("no such LoRA", r"nowhere", "--lora", "nowhere.safetensors")
plain("a LoRA that is none", r"diffusion_pytorch_model", "--lora", f"{TINY}/vae/diffusion_pytorch_model.safetensors")
plain("a LoRA for another size", r"(?i)lora", "--lora", f"{DATA}/extra/lora/pytorch_lora_weights.safetensors",
      model="models/shapes")
plain("no such CLIP model", r"nowhere", "--clip-model", "nowhere")
plain("latents of another shape", r"latents", "--latents", f"{DATA}/shapes-goldens/red-circle-right.safetensors")
plain("tiles that do not align", r"(?i)tile", "--enable-tiling", model=f"{DATA}/variants/tiny-5b")
plain("no such backend", r"tpu", "--backend", "tpu")
plain("text longer than the positions", r"max.sequence.length", "--max-sequence-length", "25")

# --- outputs ---------------------------------------------------------------------------------------------------
plain("an extension that is not known", r"\.xyz", output="out.xyz")
plain("a folder that is not there", r"absent", output="absent/out.mp4")
plain("a place that cannot be written", r"/proc", output="/proc/out.mp4")
plain("output is a folder that holds something else", r"taken\.mp4", output="taken.mp4")
for ext in ("mp4", "gif", "safetensors"):
    plain(f"disk full: {ext}", r"out\." + ext, limit=512, output=f"out.{ext}")
plain("disk full: PNG folder", r"out", limit=64, output="out/")


def limits(limit):
    def apply():
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return apply


def run(cvx, work, number):
    """None if the case went as it must, else what was wrong."""
    name, names, args, model, limit, output, breaker = CASES[number]
    d = f"{work}/model"
    shutil.copytree(model, d)
    subprocess.run(["chmod", "-R", "u+w", d], check=True)
    breaker(d)
    os.makedirs(f"{work}/out/taken.mp4")
    with open(f"{work}/out/taken.mp4/kept.txt", "w") as f:
        f.write("not ours")
    target = output if output.startswith("/") else f"{work}/out/{output}"
    defaults = {"--model": d, "--prompt": "a red circle", "--output": target, "--num-inference-steps": "1",
                "--num-frames": "5", "--height": "64", "--width": "96"}
    if "--video" in args:
        del defaults["--num-frames"]
    command = [cvx, "generate", "--quiet"]
    for key, value in defaults.items():
        if key not in args:
            command += [key, value]
    done = subprocess.run(command + args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          preexec_fn=limits(limit), timeout=120)
    message = done.stderr.decode("utf-8", "replace")
    left = sorted(os.path.relpath(os.path.join(r, f), work) for r, _, fs in os.walk(f"{work}/out") for f in fs)
    lines = [line for line in message.splitlines() if not line.startswith("cvx: note: ")]
    if done.returncode == 0:
        return "it was accepted"
    if done.returncode < 0 or done.returncode >= 70:
        return f"exit {done.returncode}: {message[-600:]}"
    if len(lines) != 1 or not lines[0].startswith("cvx: "):
        return f"not one line: {message!r}"
    if not re.search(names, lines[0]):
        return f"the cause ({names}) is not named: {lines[0]}"
    if left != ["out/taken.mp4/kept.txt"]:
        return f"left behind: {left}"
    return None


def main(cvx):
    bad = 0
    for i, c in enumerate(CASES):
        with tempfile.TemporaryDirectory() as work:
            wrong = run(cvx, work, i)
        print(f"{'ok   ' if wrong is None else 'WRONG'} {c[0]}{'' if wrong is None else ': ' + wrong}", flush=True)
        bad += wrong is not None

    # an over-long prompt is no error: cut as diffusers does, with a note
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run([cvx, "generate", "--model", TINY, "--prompt", "red circle " * 100, "--height", "64",
                               "--width", "96", "--num-frames", "5", "--num-inference-steps", "1", "--output",
                               f"{work}/a.mp4", "--quiet"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        told = done.returncode == 0 and re.search(r"note: .*token", done.stderr) and os.path.isfile(f"{work}/a.mp4")
    print(f"{'ok   ' if told else 'WRONG'} over-long prompt: a note and a video" + ("" if told else f": {done.stderr}"))
    bad += not told
    print(f"{len(CASES) + 1} cases, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
