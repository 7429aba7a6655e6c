#!/usr/bin/env bash
# The same on one GPU, and whole commands on all 10,000 test images. No GPU was at hand: this script has not run.
#
#   examples/benchmarks/gpu.sh --data cifar10:test --weights resnet20.th --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
#
# Wanted on an H100 or H200: both sets of masks of 10,000 images within 150 s in float32 and 60 s in tf32, 300 times the loop on
# the same GPU; IdCor at n = 10,000 with 1,000 permutations within 5 s; an epoch of CIFAR-10 in batches of 64 within 2.4 s.
arguments=("$@")
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh" ""
here=$root/examples/benchmarks
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
value() { for ((i = 0; i < ${#arguments[@]} - 1; i++)); do [ "${arguments[i]}" != "--$1" ] || echo "${arguments[i + 1]}"; done; }
data=$(value data)
data=${data:-cifar10:test}
train=${TRAIN:-cifar10:train}
export TIMEFORMAT='%R s'

python "$here/mask_fitting.py" ${arguments[@]+"${arguments[@]}"} --device cuda --tail 4000
python "$here/precision.py" ${arguments[@]+"${arguments[@]}"} --device cuda --images 1000
python "$here/profile_step.py" ${arguments[@]+"${arguments[@]}"} --device cuda
python "$here/permutations.py" --device cuda
python "$here/training.py" --data "$train" --device cuda
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -gt 1 ]; then python "$here/processes.py" ${arguments[@]+"${arguments[@]}"} --device cuda --processes "$gpus" --images 4000; fi

weights=$(value weights)
if [ -n "$weights" ]; then
  mean=$(value mean)
  fmtool import-model "$weights" --architecture resnet20 ${mean:+--mean "$mean" --std "$(value std)"} -o "$folder/model"
  fmtool attack "$folder/model" --data "$data" --attack fmn --device cuda -o "$folder/fmn"
  for precision in float32 tf32; do
    for purpose in essential adversarial; do
      echo "fit-masks --for $purpose --precision $precision on all images:"
      time fmtool fit-masks "$folder/model" "$folder/fmn" --for $purpose --precision $precision --device cuda -o "$folder/$purpose"
    done
  done
  echo "correlate, both nulls of 1,000 permutations:"
  time fmtool correlate "$folder/essential" "$folder/adversarial" --statistics idcor --permutations 1000 --device cuda
fi
echo "train-model, 3 epochs and then 1: the difference is two epochs:"
time fmtool train-model --data "$train" --epochs 3 --compile --device cuda -o "$folder/three"
time fmtool train-model --data "$train" --epochs 1 --compile --device cuda -o "$folder/one"
