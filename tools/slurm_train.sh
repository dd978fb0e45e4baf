#!/usr/bin/env bash
# Train under SLURM, one task for each GPU.
#
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS='--time=2-0'] \
#       tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of `slimdiff train`]
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [arguments of slimdiff train]" >&2
    exit 2
fi

PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
shift 4

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
# SRUN_ARGS is several words: split it as the shell would.
read -r -a EXTRA <<< "${SRUN_ARGS:-}"

exec srun \
    --partition="$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${EXTRA[@]+"${EXTRA[@]}"} \
    python -u "$(dirname "$(readlink -f "$0")")/train.py" "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm "$@"
