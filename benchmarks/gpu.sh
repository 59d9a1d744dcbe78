#!/usr/bin/env bash
# Repeat the measurements of an 8B model on one GPU.
#
#     bash benchmarks/gpu.sh FOLDER [PART…]
#     bash benchmarks/gpu.sh --try FOLDER [PART…]     # a tiny model on the CPU, which shows that the scripts run
#
# All parts run if none is named. Minutes are rough, for one H100 or H200 with 16 processors; those of int8 and text are
# estimates. What the scripts print on stderr is the progress; JSON files in FOLDER have the names of those in
# benchmarks/results, with the GPU's name.
#
#     part        minutes   measures                                                          figures in
#     kernels     2         the GPU tests of kernels and offload
#     bench       2         sensenova bench: bfloat16, fp8, fp8-all and --enforce-eager       docs/performance.md
#     numerics    1         fused kernels, fp8 and int8 against the plain network             docs/exactness.md
#     int8        4 + A + B the GPU tests of int8; products, steps and errors of bfloat16,    docs/eight-bits.md
#                           int8 and fp8; int8 in 12, 8 and 6 GiB
#     text        5 + A + B text in 16, 12 and 8 GiB, in bfloat16 and int8; loading           docs/memory.md
#     offload     4 + A     --offload settings                                                docs/memory.md
#     link        1 + A     weight streaming                                                  docs/memory.md
#     cache       2         cached steps; needs the extra `cache`                             docs/caching.md
#     passes      4         pictures in fewer passes; energy of bfloat16 and fp8              docs/caching.md
#     serve       1 + A     the server; needs the extra `serve`                               docs/benchmarks.md
#     interleave  2         interleaved answers                                               docs/performance.md
#     experts     9         a mixture of experts (A3B); with A3B_FOLDER the whole model,      docs/experts.md
#                           which takes 77 GB of disk there and some minutes more
#     startup     5 + A     from Enter to the first step                                      docs/performance.md
#
#     A           1         writes random weights, unless they are there: 35 GB
#     B           3         converts them to int8-all, unless that is done: 18 GB more
#
# CHECKPOINTS names the folder of these weights, which is TMPDIR or /tmp otherwise. CHECKPOINTS=/dev/shm keeps them in
# memory. PYTHON names the interpreter, which is python3 otherwise.
#
# A measurement that fails, or misses a bar, does not stop the others. The last lines say which did, and the exit code is
# then 1. int8_speed and small_card_text save their result after each step, so a run that is stopped keeps those before.
set -uo pipefail

PARTS=(kernels bench numerics int8 text offload link cache passes serve interleave experts startup)
trial=false
if [ "${1-}" = --try ]; then
    trial=true
    shift
fi
out=${1:?name a folder for the results}
shift
for part in "$@"; do
    if [[ " ${PARTS[*]} " != *" $part "* ]]; then
        echo "there is no part $part; name some of: ${PARTS[*]}" >&2
        exit 2
    fi
done
mkdir -p "$out" "${CHECKPOINTS:=${TMPDIR:-/tmp}}" || exit 1
out=$(realpath "$out")
CHECKPOINTS=$(realpath "$CHECKPOINTS")
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
model=u1-8b device=cuda gpu=
if $trial; then
    model=tiny device=cpu gpu=cpu
else
    gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name().removeprefix("NVIDIA ").removeprefix("GeForce ")
        .lower().replace(" ", "-").split("-80gb")[0])') || exit 1
fi
weights="$CHECKPOINTS/$model-random-weights"
int8_weights="$weights-int8-all"
failed=()

# measure NAME COMMAND…: run a command, and note its failure.
measure() {
    local name=$1 began=$SECONDS code=0
    shift
    echo "== $name" >&2
    "$@" || code=$?
    echo "== $name: exit code $code after $((SECONDS - began)) s" >&2
    if [ $code != 0 ]; then failed+=("$name: exit code $code"); fi
}

tests() { measure "tests of $1" "$python" -m pytest -q -m gpu "${@:2}"; }

# script NAME ARGUMENTS…: run a benchmark that writes NAME_MODEL_GPU.json.
script() { measure "$1" "$python" -m "benchmarks.$1" "${@:2}" --output "$out/$1_${model}_$gpu.json"; }

# bench NAME ARGUMENTS…: run `sensenova bench`, and write NAME.json.
bench() {
    measure "$1" bench_as_json "$@"
}
bench_as_json() { "$python" -m sensenova_cli bench "${@:2}" --device "$device" --json -q > "$out/$1.json"; }
shape=(--model "$model" --load-format dummy)

# room GIGABYTES: end unless the weights' folder has so much room.
room() {
    local free
    free=$(df --output=avail -B1000000000 "$CHECKPOINTS" | tail -1)
    if ! $trial && [ "$free" -lt "$1" ]; then
        echo "$CHECKPOINTS has $free GB free, and the weights need $1: set CHECKPOINTS to another folder" >&2
        exit 1
    fi
}

need_weights() {
    if [ -d "$weights" ]; then return; fi
    room 36
    measure "random weights" "$python" -c 'import sys, torch
from pathlib import Path
from benchmarks.offload import write_random_weights
write_random_weights(Path(sys.argv[1]), sys.argv[2], torch.device(sys.argv[3]))' "$weights" "$model" "$device"
}

need_int8_weights() {
    need_weights
    if [ -d "$int8_weights" ]; then return; fi
    room 18
    measure "conversion" "$python" -m sensenova_cli convert "$weights" "$int8_weights" --quantization int8-all --yes -q
}

part_kernels() {
    tests "kernels and offload" tests/model/backends/test_gpu.py tests/model/backends/test_decode_pass.py \
        tests/model/backends/test_expert_kernels.py tests/model/memory/test_offload.py
}

part_bench() {
    if $trial; then
        need_weights
        shape=(--model "$weights" --size 64x64)
        bench "bench_${model}_$gpu" "${shape[@]}" --steps 2 --tokens 4
        return
    fi
    local sizes=(--size 2048x2048 --size 1024x1024)
    bench "bench_${model}_$gpu" "${shape[@]}" --steps 50 --tokens 256 "${sizes[@]}" --size 512x512
    bench "bench_${model}_${gpu}_fp8" denoise "${shape[@]}" --quantization fp8 --steps 50 "${sizes[@]}"
    bench "bench_${model}_${gpu}_fp8-all" denoise decode "${shape[@]}" --quantization fp8-all --steps 50 \
        --size 2048x2048 --tokens 256
    bench "bench_${model}_${gpu}_eager" denoise decode "${shape[@]}" --enforce-eager --steps 10 --tokens 24
}

part_numerics() {
    if $trial; then
        echo "numerics needs a GPU" >&2
        return
    fi
    script numerics
}

part_int8() {
    local small=()
    if $trial; then
        small=(--model "$model" --device "$device" --size 64x64 --steps 2 --tokens 4)
    fi
    tests int8 tests/model/backends/test_int8_kernels.py
    # Before the weights are written, so that these figures are there first.
    if $trial; then
        script int8_speed --parts resident "${small[@]}"
    else
        script int8_speed
    fi
    need_int8_weights
    measure "int8_speed, capped" "$python" -m benchmarks.int8_speed --parts capped --folder "$int8_weights" \
        "${small[@]}" --output "$out/int8_capped_${model}_$gpu.json"
}

part_text() {
    local small=()
    if $trial; then
        small=(--model "$model" --device "$device" --size 64x64 --tokens 4)
    fi
    need_int8_weights
    bench "load_${model}_${gpu}_int8-all" load --model "$int8_weights" --quantization int8-all
    bench "load_${model}_${gpu}_off" load --model "$weights"
    script small_card_text "$weights" --int8 "$int8_weights" "${small[@]}"
}

part_offload() {
    need_weights
    if $trial; then
        script offload "$weights" --device "$device" --sizes 64x64 --placements off
    else
        script offload "$weights"
    fi
}

part_link() {
    need_weights
    if $trial; then
        script weight_link "$weights" --device "$device" --pieces 8 --readers 2 --passes 1
    else
        script weight_link "$weights"
    fi
}

part_cache() {
    if $trial; then
        script step_cache --model "$model" --device "$device" --size 64x64 --steps 4
    else
        script step_cache --size 2048x2048 1024x1024
    fi
}

part_passes() {
    if $trial; then
        script fewer_passes_time --model "$model" --device "$device" --dtype float32 --size 64x64 --steps 8
        return
    fi
    script fewer_passes_time
    bench "energy_${model}_$gpu" "${shape[@]}" --energy --size 2048x2048
    bench "energy_${model}_${gpu}_fp8-all" "${shape[@]}" --energy --size 2048x2048 --quantization fp8-all
}

part_serve() {
    need_weights
    if $trial; then
        script serve_speed --model "$weights" --device "$device" --size 64x64 --steps 3 --tokens 4 --runs 1
    else
        script serve_speed --model "$weights"
    fi
}

part_interleave() {
    if $trial; then
        script interleave --shape "$model" --device "$device" --size 64x64 --pictures 1 --tokens 8
    else
        script interleave
    fi
}

part_experts() {
    if $trial; then
        measure experts "$python" -m benchmarks.experts --tiny --device "$device" --output "$out/experts_a3b_$gpu.json"
    else
        measure experts "$python" -m benchmarks.experts ${A3B_FOLDER:+--folder "$A3B_FOLDER"} \
            --output "$out/experts_a3b_$gpu.json"
    fi
}

part_startup() {
    need_weights
    if $trial; then
        script startup "$weights" --device "$device" --dtype bfloat16 --sizes 64x64 --steps 3 --tokens 4 --runs 1 \
            --quantizations off
    else
        script startup "$weights"
    fi
}

if [ $# = 0 ]; then set -- "${PARTS[@]}"; fi
for part in "$@"; do
    echo "=== $part" >&2
    "part_$part"
done
if [ ${#failed[@]} != 0 ]; then
    printf '%s\n' "not all went well:" "${failed[@]}" >&2
    exit 1
fi
