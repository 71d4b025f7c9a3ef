#!/usr/bin/env bash
# Collects the requirements of scripts/gpu_check.sh for a GPU machine without network, in git-ignored folders:
# pure-Python wheels in .gpu-wheels/ and, with a folder of CIFAR-10's Parquet files, a part of them in .gpu-data/.
# usage: scripts/gpu_wheels.sh [CIFAR10_FOLDER]          PYTHON=python3 GPU_PYTHON=3.12 (the version on that machine)
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

# Run-time and test dependencies of vitkit that are pure Python, with their own dependencies. gpu_check.sh unpacks only
# those that the machine lacks. torch, numpy, pillow, safetensors, huggingface_hub, matplotlib, tensorboard, timm and
# transformers must be on the machine.
names=(
    tyro docstring_parser typeguard typing_extensions # the command line
    rich markdown-it-py mdurl pygments
    einops jaxtyping wadler_lindig
    beartype pytest pluggy iniconfig packaging # the tests
)
rm -rf .gpu-wheels
"$python" -m pip download --quiet --no-deps --only-binary=:all: --constraint constraints.txt \
    --python-version "${GPU_PYTHON:-3.12}" --platform any --implementation py --abi none --dest .gpu-wheels "${names[@]}"
echo "$(find .gpu-wheels -name '*.whl' | wc -l) wheels in .gpu-wheels ($(du -sh .gpu-wheels | cut -f1))"
if [ $# -gt 0 ]; then
    "$python" benchmarks/cifar10_part.py "$1" .gpu-data/cifar10
fi
