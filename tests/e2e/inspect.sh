#!/usr/bin/env bash
# cvx inspect: whole checkpoints, one part, shards, single files, dtypes that models do not use, and what is none of
# these.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# field FILE.json EXPRESSION: python on the document d.
field() { python3 -c 'import json, math, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"; }

# inspects PATH EXPRESSION WANTED
inspects() {
    expect "$1" "$cvx" inspect --json --tensors "$1"
    cp "$tmp/log" "$tmp/doc.json"
    equal "$1: $2" "$3" "$(field "$tmp/doc.json" "$2")"
}

variants=tests/data/variants
inspects models/shapes 'd["model"].split(",")[0], d["image_to_video"]' "('CogVideoX text-to-video', False)"
inspects $variants/tiny-5b 'd["model"].split(",")[-1]' " rotary positions"
inspects $variants/tiny-5b-i2v 'd["model"].split(",")[0], d["image_to_video"]' "('CogVideoX image-to-video', True)"
inspects $variants/tiny-1.5-5b 'd["model"].split(",")[0]' "CogVideoX-1.5 text-to-video"
inspects $variants/tiny-1.5-5b-i2v 'd["scheduler"]' "CogVideoXDPMScheduler"
inspects models/shapes 'sorted(d["parts"])' "['text_encoder', 'transformer', 'vae']"

# counts against a reader of its own: header only
cat >"$tmp/count.py" <<'P'
import json, math, os, struct, sys
tensors = parameters = size = 0
for path in sys.argv[1:]:
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
        header.pop("__metadata__", None)
        tensors += len(header)
        parameters += sum(math.prod(t["shape"]) for t in header.values())
        size += os.path.getsize(path) - 8 - n
print((tensors, parameters, size))
P
counts='tuple(d["parts"]["file"][k] for k in ("tensors", "parameters", "bytes"))'
shards=$tmp/sharded
python3 tests/shards.py tests/data/variants/tiny-2b/transformer/*.safetensors tests/data/extra/sharded-2b "$shards"
inspects models/shapes/vae "$counts" "$(python3 "$tmp/count.py" models/shapes/vae/*.safetensors)"
inspects "$shards" "$counts" "$(python3 "$tmp/count.py" "$shards"/*.safetensors)"
inspects "$shards" 'len(d["parts"]["file"]["files"])' 4
inspects "$shards" 'sum(math.prod(t["shape"]) for t in d["parts"]["file"]["list"])' \
    "$(field "$tmp/doc.json" 'd["parts"]["file"]["parameters"]')"

# every dtype of the format, two elements each
python3 - "$tmp/all.safetensors" <<'P'
import json, struct, sys
header, at = {}, 0
for name, size in (("F64", 8), ("I64", 8), ("U64", 8), ("F32", 4), ("I32", 4), ("U32", 4), ("F16", 2), ("BF16", 2),
                   ("I16", 2), ("U16", 2), ("U8", 1), ("I8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("F8_E5M2", 1)):
    header[name] = {"dtype": name, "shape": [2], "data_offsets": [at, at + 2 * size]}
    at += 2 * size
text = json.dumps(header).encode()
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + bytes(at))
P
inspects "$tmp/all.safetensors" 'all(t["name"].lower() == t["dtype"] for t in d["parts"]["file"]["list"])' True
inspects "$tmp/all.safetensors" 'len(d["parts"]["file"]["dtypes"])' 15
expect "as a table" "$cvx" inspect --tensors "$tmp/all.safetensors"
equal "the table names f8_e4m3" 1 "$(grep -c '^  F8_E4M3 *f8_e4m3 *\[2\]$' "$tmp/log")"

# refuse EXIT PATTERN PATH: one line that names the cause.
refuse() {
    local rc=0
    "$cvx" inspect "$3" >"$tmp/stdout" 2>"$tmp/stderr" || rc=$?
    equal "$3: exit" "$1" "$rc"
    equal "$3: $2" "1 0" "$(grep -Ec "^cvx: .*$2" "$tmp/stderr") $(wc -c <"$tmp/stdout")"
    equal "$3: lines" 1 "$(wc -l <"$tmp/stderr")"
}
mkdir "$tmp/empty"
head -c 100 "$tmp/all.safetensors" >"$tmp/cut.safetensors"
refuse 3 'nowhere: No such file' "$tmp/nowhere"
refuse 3 'empty: no \.safetensors' "$tmp/empty"
refuse 4 'cut\.safetensors: .*truncated' "$tmp/cut.safetensors"
refuse 4 'README\.md: ' README.md
finish
