"""Weight files as users have them, made of models/ by the standard library alone, through tools/convert-weights.

    convert.py FOLDER     works below FOLDER; prints one line a case, exit 1 if any is wrong
"""
import collections
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile

torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
torch._utils = utils
for name in ("FloatStorage", "HalfStorage"):
    setattr(torch, name, type(name, (), {"__module__": "torch"}))


def _rebuild_tensor_v2(*args):
    return args


_rebuild_tensor_v2.__module__ = "torch._utils"
utils._rebuild_tensor_v2 = _rebuild_tensor_v2
sys.modules["torch"], sys.modules["torch._utils"] = torch, utils
bad = 0


def say(name, right, detail=""):
    global bad
    bad += not right
    print(f"{'ok   ' if right else 'WRONG'} {name}{'' if right else ': ' + detail}")


def read(folder):
    with open(f"{folder}/model.safetensors", "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), f.read()
    header.pop("__metadata__", None)
    return {k: (v["dtype"], tuple(v["shape"]), data[slice(*v["data_offsets"])]) for k, v in header.items()}


class Tensor:
    """What torch.save writes of a tensor."""

    def __init__(self, key, dtype, shape):
        self.key, self.dtype, self.shape = key, dtype, shape

    def __reduce__(self):
        stride = tuple(product(self.shape[i + 1:]) for i in range(len(self.shape)))
        return _rebuild_tensor_v2, (Storage(self), 0, self.shape, stride, False, collections.OrderedDict())


class Storage:
    def __init__(self, tensor):
        self.tensor = tensor


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        t = obj.tensor
        kind = torch.HalfStorage if t.dtype == "F16" else torch.FloatStorage
        return ("storage", kind, t.key, "cpu", product(t.shape))


def product(numbers):
    n = 1
    for k in numbers:
        n *= k
    return n


def save(path, tensors, wrap=None, prefix="", protocol=2, more=None):
    named = {prefix + k: Tensor(str(i), v[0], v[1]) for i, (k, v) in enumerate(tensors.items())}
    obj = named if wrap is None else {wrap: named}
    if more is not None:
        obj = {**obj, "x": more}
    out = io.BytesIO()
    Pickler(out, protocol=protocol).dump(obj)
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", out.getvalue())
        for i, v in enumerate(tensors.values()):
            z.writestr(f"archive/data/{i}", v[2])
        z.writestr("archive/byteorder", "little")


def save_ncnn(stem, tensors):
    """Convolutions and PReLUs of an SRVGGNetCompact, float16 weights as ncnn stores them."""
    n = max(int(k.split(".")[1]) for k in tensors) // 2 + 1
    lines, data = ["Input in 0 1 x"], b""
    for i in range(n):
        w, b = tensors[f"body.{2 * i}.weight"], tensors[f"body.{2 * i}.bias"]
        now = "x" if i == 0 else f"p{i - 1}"
        lines.append(f"Convolution c{i} 1 1 {now} c{i} 0={w[1][0]} 1=3 4=1 5=1 6={product(w[1])}")
        data += struct.pack("<I", 0x01306B47) + w[2] + bytes(-len(w[2]) % 4) + b[2]
        if i < n - 1:
            s = tensors[f"body.{2 * i + 1}.weight"]
            lines.append(f"PReLU p{i} 1 1 c{i} p{i} 0={s[1][0]}")
            data += s[2]
    lines.append(f"PixelShuffle s 1 1 c{n - 1} y 0=4")
    with open(stem + ".param", "w") as f:
        f.write("7767517\n%d %d\n%s\n" % (len(lines), len(lines), "\n".join(lines)))
    with open(stem + ".bin", "wb") as f:
        f.write(data)


def convert(*args):
    done = subprocess.run([sys.executable, "tools/convert-weights", *args], capture_output=True, text=True)
    return done.returncode, done.stderr.strip()


class Evil:
    def __reduce__(self):
        return os.mkdir, (marker,)


def accepts(name, path, out, want, *args):
    rc, err = convert(path, out, *args)
    have = read(out) if rc == 0 else {}
    say(name, rc == 0 and have == want, err or "other tensors")


def refuses(name, word, path):
    rc, err = convert(path, f"{tmp}/refused")
    say(name, rc == 1 and len(err.splitlines()) == 1 and word in err and not os.path.exists(f"{tmp}/refused"), err)


tmp = sys.argv[1]
marker = f"{tmp}/executed"
small = read("models/realesr-animevideov3")
rrdb = read("tests/data/variants/tiny-rrdb")
rife = read("models/rife-v3.9")

save(f"{tmp}/a.pth", small, wrap="params")
accepts("a .pth with params", f"{tmp}/a.pth", f"{tmp}/a", small)
with open(f"{tmp}/a/config.json") as f:
    cfg = json.load(f)
say("its config", (cfg["architecture"], cfg["num_conv"], cfg["upscale"]) == ("SRVGGNetCompact", 16, 4), str(cfg))
save(f"{tmp}/b.pth", rrdb, wrap="params_ema", protocol=4)
accepts("a .pth with params_ema", f"{tmp}/b.pth", f"{tmp}/b", rrdb)
save(f"{tmp}/c.pth", rrdb)
accepts("bare tensors", f"{tmp}/c.pth", f"{tmp}/c", rrdb)
save_ncnn(f"{tmp}/d", small)
accepts("ncnn", f"{tmp}/d.param", f"{tmp}/d", small)
accepts("ncnn by its .bin", f"{tmp}/d.bin", f"{tmp}/d2", small, "--scale", "2")
accepts("our own file again", "models/rife-v3.9/model.safetensors", f"{tmp}/e",
        {k: v for k, v in rife.items()})
plain = {k: v for k, v in rife.items() if not k.endswith("_scale") and v[0] != "I16"}
for k, v in rife.items():
    if v[0] == "I16":  # as float32, as users have it
        n, per = product(v[1]), product(v[1][2:])
        scale = struct.unpack(f"<{len(rife[k + '_scale'][2]) // 2}e", rife[k + "_scale"][2])
        whole = struct.unpack(f"<{n}h", v[2])
        plain[k] = ("F32", v[1], struct.pack(f"<{n}f", *(x / 32768 * scale[i // per] for i, x in enumerate(whole))))
save(f"{tmp}/flownet.pkl", {**plain, "contextnet.x": ("F32", (1,), bytes(4))}, prefix="module.")
accepts("a RIFE .pkl", f"{tmp}/flownet.pkl", f"{tmp}/f", plain)
rc, err = convert(f"{tmp}/flownet.pkl", f"{tmp}/g", "--fixed")
say("a RIFE .pkl in fractions", rc == 0 and os.path.getsize(f"{tmp}/g/model.safetensors") < 11.6e6, err)

save(f"{tmp}/evil.pth", rrdb, more=Evil())
refuses("a pickle that calls something", "mkdir", f"{tmp}/evil.pth")
say("which is not called", not os.path.exists(marker))
with open(f"{tmp}/old.pth", "wb") as f:
    pickle.dump({"x": 1}, f)
refuses("not a zip file", "neither", f"{tmp}/old.pth")
save(f"{tmp}/other.pth", {"linear.weight": ("F32", (1,), bytes(4))})
refuses("another network", "not a network", f"{tmp}/other.pth")
save(f"{tmp}/short.pth", {k: (v[0], v[1], v[2][:-2]) for k, v in rrdb.items()})
refuses("tensors cut short", "larger than", f"{tmp}/short.pth")
with open(f"{tmp}/d.bin", "r+b") as f:
    f.truncate(1000)
refuses("an ncnn .bin cut short", "ends within", f"{tmp}/d.param")
save(f"{tmp}/rife47.pkl", {**plain, "encode.0.weight": ("F32", (1,), bytes(4))})
refuses("RIFE 4.7", "4.7", f"{tmp}/rife47.pkl")
refuses("no file", "No such file", f"{tmp}/absent.pth")
sys.exit(bad != 0)
