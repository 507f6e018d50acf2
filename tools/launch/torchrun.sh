#!/bin/bash
# On every node: HEAD=first-node NODES=4 GPUS=8 tools/launch/torchrun.sh CONFIG --work-dir SHARED/FOLDER [...]
#
# A process that dies is started again with all others, on all nodes, up to RESTARTS times, and goes
# on at the newest checkpoint. SIGTERM to torchrun saves at one step on all ranks.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec python -m torch.distributed.run \
    --nnodes "${NODES:-1}" --nproc-per-node "${GPUS:-8}" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:${PORT:-29400}" --rdzv-id "${JOB:-sparc}" \
    -m "${SPARC:-sparc_tools}" pretrain "$@" --launcher pytorch --resume auto
