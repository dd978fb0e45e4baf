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
source "$(dirname "$(readlink -f "$0")")/misc/launch.sh"
with_srun train.py "$PARTITION" "$JOB_NAME" "$CONFIG" --work-dir "$WORK_DIR" "$@"
