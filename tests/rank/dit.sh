#!/usr/bin/env bash
# The transformer over all meshes of cfg x ring x ulysses x tensor: see dit.c. Then the same through the program:
# latents and frames of ring and tensor runs stay within 1e-4 relative RMS of one rank's.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

counts=(2 3 8)
[ "$full" = 0 ] || counts=(1 2 3 4 5 6 7 8)
for n in "${counts[@]}"; do
    if mpi "$n" "$programs/rank_dit" >"$tmp/log" 2>&1; then
        ok "transformer: $(tail -n 1 "$tmp/log")"
    else
        wrong "transformer on $n ranks: $(grep -m 3 rank "$tmp/log" || tail -n 3 "$tmp/log")"
    fi
done

# near RANKS MESH...: the flags of MESH on so many ranks.
near() {
    local n=$1
    shift
    mpi "$n" "$rank" "${args[@]}" --threads 1 "$@" --output "$tmp/many.safetensors" >"$tmp/log" 2>&1 || true
    if python3 - "$tmp/one.safetensors" "$tmp/many.safetensors" <<'PY' 2>>"$tmp/log"; then
import array, json, math, struct, sys

def read(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    at = json.loads(data[8:8 + n])["latents"]["data_offsets"]
    return array.array("f", data[8 + n + at[0]:8 + n + at[1]])

one, many = read(sys.argv[1]), read(sys.argv[2])
off = math.sqrt(sum((a - b) ** 2 for a, b in zip(one, many)) / sum(a * a for a in one))
print(f"relative RMS {off:.2e}", file=sys.stderr)
sys.exit(not (len(one) == len(many) and off <= 1e-4))
PY
        ok "$name: $n ranks $*: $(tail -n 1 "$tmp/log")"
    else
        wrong "$name: $n ranks $*: $(tail -n 2 "$tmp/log")"
    fi
    rm -f "$tmp/many.safetensors"
}

lora="tests/data/extra/lora/pytorch_lora_weights.safetensors"
for v in 2b 5b 1.5-5b; do
    name=$v
    args=(--model "tests/data/variants/tiny-$v" --height 64 --width 96 --num-frames 9 --prompt "a cat"
        --num-inference-steps 3 --manifest none --quiet)
    [ "$v" != 5b ] || args+=(--lora "$lora")
    "$cvx" generate "${args[@]}" --threads 1 --output "$tmp/one.safetensors"
    near 3 --ring-degree 3
    near 4 --tensor-parallel-degree 4
    near 8 --enable-cfg-parallel --ring-degree 2 --tensor-parallel-degree 2
done
finish
