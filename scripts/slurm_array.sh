#!/bin/bash
# One stage of the study for each line of a task list, side by side on a Slurm cluster.
#
# A line of the list is: MODEL METHOD SEED [SETTING=VALUE ...]. Models x methods x seeds, e.g. in bash:
#
#     for model in Qwen/Qwen3-8B deepseek-ai/DeepSeek-R1-Distill-Qwen-7B; do
#       for method in sft presafe safety_tax presafe/few; do
#         for seed in 0 1 2; do echo "$model $method $seed"; done
#       done
#     done > tasks.txt
#
# Once, before the first job, for Slurm opens the log before this script runs, and every node must see one store:
#
#     source .venv/bin/activate      # sbatch hands the environment on; or export PYTHON=/path/to/.venv/bin/python
#     mkdir -p logs && export SAFERLRM_HOME=/shared/folder/store
#
# and then, first what all methods of a model share, then everything at once:
#
#     sbatch --array=1-2 scripts/slurm_array.sh models.txt soft_labels    # models.txt: "MODEL - 0", one line a model
#     sbatch --array=1-24%8 scripts/slurm_array.sh tasks.txt scorecard    # %8: at most eight at a time
#     saferlrm status --profile gpu --model Qwen/Qwen3-8B                # of one model
#
# The first of the two is a convenience: without it the tasks of one model wait for whichever started first. Finished
# stages are never computed again, so a task that ran out of time is submitted again and goes on where it stopped:
# alignment at its last checkpoint, a scorecard at the thinking mode that was being answered.
# METHOD "-" is a stage without methods (see `saferlrm status` for their names), "before" the model before alignment.
# STAGE is aligned, scorecard (the default) or card; scorecard and card align first where that is still to be done.
#
# The store must lie on a file system that all nodes share and that supports locks between nodes (NFS 4, Lustre with
# -o flock, GPFS). The model hub's cache (HF_HOME) too, or every node downloads.

#SBATCH --job-name=saferlrm
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=96G
#SBATCH --time=24:00:00
#SBATCH --output=logs/%x-%A_%a.log
#SBATCH --signal=B:INT@120        # two minutes before the end: stop as Ctrl-C does; the last checkpoint is kept.
                                  # B: for the batch shell, whose place python takes below; else only srun's steps get it
#SBATCH --requeue

set -euo pipefail
tasks=${1:?usage: slurm_array.sh TASKS [STAGE]}
stage=${2:-scorecard}
profile=${SAFERLRM_PROFILE:-gpu}  # a profile's name, or the path of a YAML file
gpus=${SAFERLRM_GPUS:-1}          # above 1: alignment trains on all of them; set --gpus-per-node to the same number
export SAFERLRM_HOME=${SAFERLRM_HOME:-$PWD/store}
export SAFERLRM_SHIPPED=${SAFERLRM_SHIPPED:-0}
export SAFERLRM_PROGRESS=${SAFERLRM_PROGRESS:-$PWD/logs/progress-${SLURM_ARRAY_TASK_ID:-0}.log} # 0: none

line=$(sed -n "${SLURM_ARRAY_TASK_ID:?submit with sbatch --array}p" "$tasks")
read -r model method seed settings <<< "$line" || true
if [ -z "${seed:-}" ]; then
    echo "line $SLURM_ARRAY_TASK_ID of $tasks is '$line'; write MODEL METHOD SEED" >&2
    exit 2
fi

command=(-m saferlrm stage "$stage" --profile "$profile" --model "$model" --seed "$seed")
[ "$method" = "-" ] || command+=(--method "$method")
for setting in $settings; do command+=(--set "$setting"); done

if [ "$gpus" -gt 1 ]; then
    # One process for each GPU; the same numbers as with one. For a model that does not fit into one GPU, shard it:
    #   accelerate launch --use_fsdp --fsdp_version 2 --num_processes "$gpus" "${command[@]}"
    # Over several nodes: --nodes=N above, and srun torchrun --nnodes N --nproc-per-node "$gpus" --rdzv-backend c10d
    #   --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$(scontrol show hostnames | head -n 1):29500" "${command[@]}"
    exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node "$gpus" "${command[@]}"
fi
exec "${PYTHON:-python}" "${command[@]}"
