#!/bin/bash
# InstantID on six machines with eight 80 GB GPUs, one process a GPU:
#   sbatch docs/launch/slurm.sh configs/instantid_sdxl.py --workdir runs/1024 --data.datasets.0.folder DIR
# From the checkout, which all machines see, as they see the run's folder and the data.
#SBATCH --job-name=instantid
#SBATCH --nodes=6
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
# Training has five minutes to save before the time is over.
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# The environment of `pip install -e '.[cuda,train]'`.
source "${VENV:-.venv}/bin/activate"
srun --kill-on-bad-exit=1 python -m train "$@"
status=$?
# Stopped and saved: the same job resumes.
if [ $status -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
