#!/usr/bin/env bash
# Every benchmark on the CPU, on cores that do nothing else; a Markdown table or two each on standard output.
#
#   examples/benchmarks/run.sh --data cifar10:test --weights resnet20.th --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
#
# The arguments go to the benchmarks that run the classifier; TRAIN names the training images (default: torchvision's CIFAR-10);
# PICTURES and MODEL are what reading.py takes, which is left out without them.
arguments=("$@")
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh" ""
here=$root/examples/benchmarks
python "$here/mask_fitting.py" ${arguments[@]+"${arguments[@]}"}
python "$here/whole_command.py" ${arguments[@]+"${arguments[@]}"}
python "$here/bases.py" ${arguments[@]+"${arguments[@]}"}
python "$here/bound.py" ${arguments[@]+"${arguments[@]}"}
python "$here/precision.py" ${arguments[@]+"${arguments[@]}"}
python "$here/memory.py"
[ -z "${PICTURES-}" ] || python "$here/reading.py" --pictures "$PICTURES" --model "$MODEL"
python "$here/permutations.py"
python "$here/correlations.py"
python "$here/attacks.py" ${arguments[@]+"${arguments[@]}"}
python "$here/passes.py" ${arguments[@]+"${arguments[@]}"}
python "$here/allocation.py" ${arguments[@]+"${arguments[@]}"}
python "$here/processes.py" ${arguments[@]+"${arguments[@]}"}
python "$here/heatmap.py" ${arguments[@]+"${arguments[@]}"}
python "$here/training.py" --data "${TRAIN:-cifar10:train}"
