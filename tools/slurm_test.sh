#!/usr/bin/env bash
# Measure a checkpoint under SLURM, one task for each GPU.
#
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS='--time=1:00:00'] \
#       tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of `slimdiff test`]
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of slimdiff test]" >&2
    exit 2
fi

PARTITION=$1
JOB_NAME=$2
CONFIG=$3
CHECKPOINT=$4
shift 4
source "$(dirname "$(readlink -f "$0")")/misc/launch.sh"
with_srun test.py "$PARTITION" "$JOB_NAME" "$CONFIG" "$CHECKPOINT" "$@"
