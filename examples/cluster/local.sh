#!/usr/bin/env bash
# The same without Slurm: N tasks of array.sbatch side by side on this machine, then merge. Tasks that fail are named in lines that
# resume them alone; the same line again would start the finished ones over.
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
shards=()
for ((number = 1; number <= count; number++)); do
  shards+=("$output.$number-of-$count")
  wait "${tasks[number - 1]}" && continue || failed=$?
  printf -v line ' %q' bash "$here/array.sbatch" "$output" "$@"
  echo "local.sh: task $number failed; to resume it: SLURM_ARRAY_TASK_ID=$number SHARDS=$count$line" >&2
done
if [ "$failed" != 0 ]; then
  printf -v line ' %q' "${shards[@]}" -o "$output"
  echo "local.sh: then: fmtool merge$line" >&2
  exit "$failed"
fi
python -m fmtool merge "${shards[@]}" -o "$output"
rm "${shards[@]}"
