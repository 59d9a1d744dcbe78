#!/usr/bin/env bash
# What docs/performance.md tells of an 8B model on one GPU, measured anew: bash benchmarks/gpu.sh FOLDER
# Takes ten minutes, 39 GiB and 35 GB of disk on an H100; the JSON files in FOLDER are those of benchmarks/results.
set -euo pipefail
out=${1:?name a folder for the results}
mkdir -p "$out"
bench() { python -m sensenova_cli bench "$@" --model u1-8b --load-format dummy --json; }

python -m pytest -q -m gpu tests/model/backends/test_gpu.py tests/model/memory/test_offload.py
bench --steps 50 --tokens 256 --size 2048x2048 --size 1024x1024 --size 512x512 > "$out/bench_u1-8b_h100.json"
bench denoise --quantization fp8 --steps 50 --size 2048x2048 --size 1024x1024 > "$out/bench_u1-8b_h100_fp8.json"
bench denoise decode --quantization fp8-all --steps 50 --size 2048x2048 --tokens 256 > "$out/bench_u1-8b_h100_fp8-all.json"
bench denoise decode --enforce-eager --steps 10 --tokens 24 > "$out/bench_u1-8b_h100_eager.json"
python -m benchmarks.numerics --json "$out/numerics_u1-8b_h100.json"
python -m benchmarks.offload "${TMPDIR:-/tmp}/u1-8b-random-weights" --json "$out/offload_u1-8b_h100.json"
# Needs the extra `cache`.
python -m benchmarks.step_cache --size 2048x2048 1024x1024 --json "$out/step_cache_u1-8b_h100.json"
