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

# Several processes with all the cores each would slow each other down.
if [[ $GPUS != 1 ]]; then
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi

exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$(readlink -f "$0")")/train.py" "$CONFIG" --launcher pytorch "$@"
