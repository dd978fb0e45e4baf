#!/usr/bin/env bash
# Measure a checkpoint on several GPUs, or on several CPU processes (gloo) where there are none.
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of `slimdiff test`]
#
# Several nodes: as for dist_train.sh (NNODES, NODE_RANK, MASTER_ADDR, PORT).
set -euo pipefail

if [[ $# -lt 3 ]]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of slimdiff test]" >&2
    exit 2
fi

CONFIG=$1
CHECKPOINT=$2
GPUS=$3
shift 3
source "$(dirname "$(readlink -f "$0")")/misc/launch.sh"
with_torchrun test.py "$GPUS" "$CONFIG" "$CHECKPOINT" "$@"
