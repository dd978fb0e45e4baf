# How the launchers tools/dist_*.sh and slurm_*.sh start the processes of a tool. Sourced by them, not run.

TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The first import of yapf, which mmengine makes, writes a cache file, and processes that start together would read each
# other's half of it (EOFError). Where this fails, the tool itself says what is missing.
write_yapf_cache() {
    python -c 'import yapf' > /dev/null 2>&1 || true
}

# with_torchrun TOOL GPUS [arguments of the tool]: as many processes on this node.
with_torchrun() {
    local tool=$1 gpus=$2
    shift 2
    # Several processes with all the cores each would slow each other down.
    if [[ $gpus != 1 ]]; then
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    fi
    write_yapf_cache
    exec python -m torch.distributed.run \
        --nnodes="${NNODES:-1}" \
        --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${PORT:-29500}" \
        --nproc_per_node="$gpus" \
        "$TOOLS/$tool" --launcher pytorch "$@"
}

# with_srun TOOL PARTITION JOB_NAME [arguments of the tool]: GPUS tasks.
with_srun() {
    local tool=$1 partition=$2 job_name=$3 gpus=${GPUS:-8}
    shift 3
    local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))} extra
    # SRUN_ARGS is several words: split it as the shell would.
    read -r -a extra <<< "${SRUN_ARGS:-}"
    write_yapf_cache
    exec srun \
        --partition="$partition" \
        --job-name="$job_name" \
        --gres="gpu:$per_node" \
        --ntasks="$gpus" \
        --ntasks-per-node="$per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        ${extra[@]+"${extra[@]}"} \
        python -u "$TOOLS/$tool" --launcher slurm "$@"
}
