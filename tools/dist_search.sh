#!/usr/bin/env bash
# Search step allocations on several GPUs, or on several CPU processes (gloo) where there are none.
#
#   tools/dist_search.sh CONFIG CHECKPOINT GPUS [arguments of `slimdiff search`]
#
# Several nodes: as for dist_train.sh (NNODES, NODE_RANK, MASTER_ADDR, PORT).
set -euo pipefail

if [[ $# -lt 3 ]]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of slimdiff search]" >&2
    exit 2
fi

CONFIG=$1
CHECKPOINT=$2
GPUS=$3
shift 3

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
    "$(dirname "$(readlink -f "$0")")/search.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
