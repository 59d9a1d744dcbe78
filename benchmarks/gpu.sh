#!/usr/bin/env bash
# Repeat the measurements of an 8B model on one GPU: bash benchmarks/gpu.sh FOLDER
#
# It runs, in this order:
#   1. the GPU tests of kernels and offload
#   2. sensenova bench: bfloat16, fp8, fp8-all and --enforce-eager          (docs/performance.md)
#   3. benchmarks.numerics: fused kernels, fp8 and int8 against the plain network (docs/exactness.md)
#      and benchmarks.int8_speed                                              (docs/performance.md)
#   4. benchmarks.offload, small_card_text and weight_link                    (docs/memory.md)
#   5. benchmarks.step_cache, which needs the extra `cache`                   (docs/caching.md)
#   6. benchmarks.serve_speed, which needs the extra `serve`                  (docs/serving.md)
#   7. benchmarks.interleave                                                  (docs/benchmarks.md)
#   8. benchmarks.experts, a mixture of experts (A3B)                         (docs/experts.md)
#      With A3B_FOLDER it also measures the whole model, which takes 77 GB of disk there.
#   9. benchmarks.startup, whose exit code is that of its bars                (docs/performance.md)
# The JSON files in FOLDER have the names of those in benchmarks/results.
# On an H100 this takes about fifteen minutes, 39 GiB of its memory and 53 GB of disk. Experts take longer, and 75 GiB.
set -euo pipefail
out=${1:?name a folder for the results}
mkdir -p "$out"
checkpoint="${TMPDIR:-/tmp}/u1-8b-random-weights"
bench() { python -m sensenova_cli bench "$@" --model u1-8b --load-format dummy --json; }

python -m pytest -q -m gpu tests/model/backends/test_gpu.py tests/model/backends/test_int8_kernels.py \
    tests/model/backends/test_expert_kernels.py tests/model/backends/test_decode_pass.py tests/model/memory/test_offload.py
bench --steps 50 --tokens 256 --size 2048x2048 --size 1024x1024 --size 512x512 > "$out/bench_u1-8b_h100.json"
bench denoise --quantization fp8 --steps 50 --size 2048x2048 --size 1024x1024 > "$out/bench_u1-8b_h100_fp8.json"
bench denoise decode --quantization fp8-all --steps 50 --size 2048x2048 --tokens 256 > "$out/bench_u1-8b_h100_fp8-all.json"
bench denoise decode --enforce-eager --steps 10 --tokens 24 > "$out/bench_u1-8b_h100_eager.json"
python -m benchmarks.numerics --output "$out/numerics_u1-8b_h100.json"
python -m benchmarks.int8_speed --folder "$checkpoint" --output "$out/int8_speed_u1-8b_h100.json"
python -m benchmarks.offload "$checkpoint" --output "$out/offload_u1-8b_h100.json"
python -m benchmarks.small_card_text "$checkpoint" --int8 "$checkpoint-int8" \
    --output "$out/small_card_text_u1-8b_h100.json" || true # its table says why
python -m benchmarks.weight_link "$checkpoint" --output "$out/weight_link_h100.json"
python -m benchmarks.step_cache --size 2048x2048 1024x1024 --output "$out/step_cache_u1-8b_h100.json"
python -m benchmarks.serve_speed --model "$checkpoint" --output "$out/serve_speed_u1-8b_h100.json" || true # its table says why
python -m benchmarks.interleave --output "$out/interleave_u1-8b_h100.json" || true # its table says why
python -m benchmarks.experts ${A3B_FOLDER:+--folder "$A3B_FOLDER"} \
    --output "$out/experts_a3b_h100.json" || true # its table says why
python -m benchmarks.startup "$checkpoint" --output "$out/startup_u1-8b_h100.json"
