#!/usr/bin/env bash
# The same without Slurm: N tasks of array.sbatch side by side on this machine, then merge.
#
#   examples/cluster/local.sh N OUTPUT COMMAND...
set -euo pipefail
if [ $# -lt 3 ]; then echo "usage: local.sh N OUTPUT COMMAND..." >&2; exit 2; fi
count=$1
output=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tasks=()
for ((number = 1; number <= count; number++)); do
  SLURM_ARRAY_TASK_ID=$number SHARDS=$count bash "$here/array.sbatch" "$output" "$@" &
  tasks+=($!)
done
trap 'kill "${tasks[@]}" 2>/dev/null || true' INT TERM
failed=0
for task in "${tasks[@]}"; do wait "$task" || failed=$?; done
[ "$failed" = 0 ] || exit "$failed"  # run the same line again to resume
shards=()
for ((number = 1; number <= count; number++)); do shards+=("$output.$number-of-$count"); done
python -m fmtool merge "${shards[@]}" -o "$output"
rm "${shards[@]}"
