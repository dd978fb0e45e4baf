#!/usr/bin/env bash
# Everything that wants a GPU, most wanted first, as JSON in a folder:
#
#     bash studies/gpu.sh benchmark OUT    about five minutes on an H100
#     bash studies/gpu.sh teacher OUT      the Fashion-MNIST teacher, 90 seconds; into configs/ldm/fashion_mnist_weights
#     bash studies/gpu.sh compiled OUT     the throughput once more, compiled
#     bash studies/gpu.sh central OUT      the central table on Fashion-MNIST, about six minutes
#     bash studies/gpu.sh all OUT          all of these but central
#
# Each JSON names its command and the card. QUICK=1 runs a few iterations of each part on whatever device there is, to
# see that they run; DRY=1 prints the commands alone.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
PART=${1:?benchmark, compiled, teacher, central or all}; OUT=${2:?a folder}; mkdir -p "$OUT"
PYTHON=${PYTHON:-python3}; QUICK=${QUICK:-}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

part() {  # NAME SECONDS COMMAND...: a part that fails or takes too long doesn't stop the others
    local start=$SECONDS name=$1 limit=$2; shift 2
    echo "== $name: $*"
    [ -z "${DRY:-}" ] || return 0
    timeout --signal=INT --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1
    local status=$?
    echo "== $name: status $status, $((SECONDS - start)) s"; tr '\r' '\n' <"$OUT/$name.log" | tail -n 25 | cut -c1-160
    return $status
}

FFHQ=(configs/ldm/ffhq.py configs/sd/ffhq.py configs/sd/ffhq_ldm-layout.py configs/lite_ldm/ffhq.py)
BATCHES="1 16 64"; ROUNDS=20
[ -n "$QUICK" ] && { FFHQ=(configs/ldm/photo_patches.py configs/sd/photo_patches.py); BATCHES=2; ROUNDS=2; }

benchmarks() {
    local case=16 ddsm=256
    [ -n "$QUICK" ] && { case=2; ddsm=2; }
    # shellcheck disable=SC2086
    part throughput_gpu 150 "$PYTHON" -m slimdiff.cli.main benchmark "${FFHQ[@]}" --batch-size $BATCHES --dtype bf16 \
        --rounds $ROUNDS --warmup 3 --json "$OUT/throughput_gpu.json"
    part step_aware_gpu 80 "$PYTHON" benchmarks/bench_step_aware.py --dtype bfloat16 --batch-size $ddsm \
        --rounds $ROUNDS --training-rounds 5 --json "$OUT/step_aware_gpu.json"
    part resamplers_gpu 60 "$PYTHON" benchmarks/bench_resamplers.py --dtype bfloat16 --rounds $ROUNDS --calls 20 \
        --combine sum --json "$OUT/resamplers_gpu.json"
    local config=configs/sd/ffhq.py; [ -n "$QUICK" ] && config=configs/sd/photo_patches_16px.py
    part distill_gpu 80 "$PYTHON" benchmarks/bench_distill.py --config $config --cases $case --amp --rounds $ROUNDS \
        --steps 2 --out "$OUT/distill_gpu.json"
}

compiled() {  # the first run fills the compiler's cache
    # shellcheck disable=SC2086
    part "$1" "$2" "$PYTHON" -m slimdiff.cli.main benchmark "${FFHQ[@]}" --batch-size $BATCHES --dtype bf16 \
        --rounds "${3:-$ROUNDS}" --warmup 3 --compile --json "$OUT/$1.json"
}

teacher() {
    local iterations=12000; [ -n "$QUICK" ] && iterations=4
    part teacher 150 "$PYTHON" studies/together.py --arm Teacher=configs/ldm/fashion_mnist.py --seeds 0 \
        --iterations $iterations --out "$OUT" --export "$OUT/fashion_mnist_weights" "$@"
}

central() {
    local iterations=${ITERATIONS:-20000} images=10000
    [ -n "$QUICK" ] && { iterations=4; images=100; }
    part central "${LIMIT:-600}" "$PYTHON" studies/together.py --seeds 0 1 2 3 4 --iterations "$iterations" \
        --seconds "${SECONDS_OF_TRAINING:-300}" --out "$OUT" \
        --arm Lite=configs/lite_ldm/fashion_mnist.py --arm WG=configs/sd/fashion_mnist_gated.py \
        --arm SD=configs/sd/fashion_mnist.py --arm Lite+distillation=configs/lite_ldm/fashion_mnist_distilled.py@3 \
        --arm WG+spatial=configs/sd/fashion_mnist_spatial.py@3 --arm WG+frequency=configs/sd/fashion_mnist_frequency.py@3 \
        --arm DDSM=configs/ddsm/fashion_mnist.py@1
    part comparison 160 "$PYTHON" studies/compare_networks.py "$OUT" --num-images $images \
        --model Teacher/0=configs/ldm/fashion_mnist.py
    part samplers 60 "$PYTHON" studies/compare_networks.py "$OUT" --num-images $((images / 2)) --sampler-study SD/0
}

case $PART in
    benchmark) benchmarks ;;
    compiled) compiled throughput_gpu_compiled 400 ;;
    teacher) shift 2; teacher "$@" ;;
    central) central ;;
    all) benchmarks; compiled filling_cache 400 1 & teacher; wait; compiled throughput_gpu_compiled 120 ;;
    *) echo "unknown part '$PART'" >&2; exit 2 ;;
esac
