#!/usr/bin/env bash
# torchrun, started once on each host with the same arguments but for NODE_RANK.
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=host1 bash launch/torchrun.sh --ds_config seq128
#   NODES=2 NODE_RANK=1 MASTER_ADDR=host1 bash launch/torchrun.sh --ds_config seq128
#
# Alone, without variables, it uses this machine. RANKS: per host; default: its GPUs, or 1.
set -euo pipefail

gpus="$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)"
ranks="${RANKS:-$((gpus > 0 ? gpus : 1))}"

# exec: a signal to this script reaches torchrun, which passes these three on; others would leave the
# ranks behind. Its exit code is 1 where that of the ranks is 75.
exec torchrun \
  --nnodes="${NODES:-1}" \
  --node-rank="${NODE_RANK:-0}" \
  --nproc-per-node="$ranks" \
  --master-addr="${MASTER_ADDR:-127.0.0.1}" \
  --master-port="${MASTER_PORT:-29500}" \
  --signals-to-handle=SIGTERM,SIGINT,SIGUSR1 \
  --module ds_bert.train "$@"
