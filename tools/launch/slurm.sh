#!/bin/bash
#SBATCH --job-name=sparc --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8
#SBATCH --signal=TERM@300 --requeue --open-mode=append
# sbatch tools/launch/slurm.sh CONFIG --work-dir SHARED/FOLDER [more of `sparc pretrain`]
#
# Five minutes before the time limit every process is told to stop; they save at one step and end
# with 75, and the job puts itself into the queue again. A node that dies ends the job step, and
# Slurm puts the job into the queue again by itself. Either goes on at the newest checkpoint.
set -uo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
srun --kill-on-bad-exit=1 python -m "${SPARC:-sparc_tools}" pretrain "$@" --launcher slurm --resume auto
code=$?
if [ "$code" = 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
