#!/usr/bin/env bash
# Train on several GPUs, or on several CPU processes (gloo) where there are none.
#
#   tools/dist_train.sh CONFIG GPUS [arguments of `slimdiff train`]
#
# Several nodes: run it on each with NNODES, NODE_RANK (0 ... NNODES-1), MASTER_ADDR and PORT set;
# GPUS is then the number on one node.
set -euo pipefail

if [[ $# -lt 2 ]]; then
    echo "usage: $0 CONFIG GPUS [arguments of slimdiff train]" >&2
    exit 2
fi

CONFIG=$1
GPUS=$2
shift 2
source "$(dirname "$(readlink -f "$0")")/misc/launch.sh"
with_torchrun train.py "$GPUS" "$CONFIG" "$@"
