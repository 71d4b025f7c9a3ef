#!/usr/bin/env bash
# All benchmarks on a machine with an NVIDIA GPU, written into benchmarks/ (or the folder given). About half an hour.
# usage: scripts/gpu_bench.sh [FOLDER]
set -euo pipefail
out="${1:-benchmarks}"
vitkit="${VITKIT:-.venv/bin/vitkit}"
failed=0

bench() {
    echo "== vitkit bench $*"
    "$vitkit" bench "$@" --device cuda --out "$out" || failed=1
}

profile() {
    echo "== profile $*"
    "$(dirname "$vitkit")/python" benchmarks/profile_network.py --device cuda --write "$@" || failed=1
}

peers=vitkit,vitkit:compile=true,timm,timm:compile=max-autotune,timm_compiled,transformers,transformers:compile=reduce-overhead,torchvision
bench inference --model vit-s/16,vit-b/16,vit-l/16 --batch 1,64,256 --precision bfloat16,float16 --peers "$peers"
bench inference --model vit-b/16,vit-l/16 --batch 256 --precision float8 --peers vitkit,vitkit:compile=true
bench training --model vit-s/16,vit-b/16 --batch 128 --precision bfloat16 \
    --peers vitkit,vitkit:machine.compile=true,timm,timm_compiled,transformers,torchvision
profile --model vit-b/16 --batch 256 --compile
profile --model vit-b/16 --batch 128 --train --compile
bench photos --model vit-b/16
bench data
bench startup --model vit-b/16
exit "$failed"
