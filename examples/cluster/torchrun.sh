#!/usr/bin/env bash
# N processes of this machine share the images and write one file; with GPUs each takes its own.
#
#   examples/cluster/torchrun.sh N fit-masks model.safetensors fmn.safetensors --for essential -o essential.safetensors
#
# On several machines, the same line on each of them (or by srun), with the folder of the output on a disk that all of them see:
#
#   torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500 --rdzv-id masks \
#       -m fmtool fit-masks model.safetensors fmn.safetensors --for essential -o essential.safetensors
#
# A process that dies ends the job; run the same line again to resume. Not run yet on several GPUs or machines.
set -euo pipefail
if [ $# -lt 2 ]; then echo "usage: torchrun.sh N COMMAND..." >&2; exit 2; fi
count=$1
shift
exec python -m torch.distributed.run --standalone --nproc-per-node "$count" -m fmtool "$@"
