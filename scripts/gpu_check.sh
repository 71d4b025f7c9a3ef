#!/usr/bin/env bash
# Checks vitkit on a machine with an NVIDIA GPU, from a bare checkout and without network: CUDA tests, inference and
# training against timm and transformers, a training recipe. Writes a page and JSON. At most nine minutes.
# usage: scripts/gpu_check.sh [tests|inference|training|recipe|all] [--device cuda|cpu] [--tiny] [--out DIR]
# Needs that machine's own python3 with torch, and the wheels that scripts/gpu_wheels.sh collected.
# Variables: PYTHON=python3, LIMIT=540 (seconds for everything; more for a test run on a slow CPU).
set -euo pipefail
limit="${LIMIT:-540}"
# gpu_check.py observes the limit; this kills it if it does not.
exec timeout --kill-after=10 "$((limit + 10))" \
    "${PYTHON:-python3}" "$(dirname "$0")/../benchmarks/gpu_check.py" --limit "$limit" "$@"
