#!/usr/bin/env bash
# All stages on 200 images of CIFAR-10's test set with the ResNet-20 that lies beside this script, in under 10 minutes on two
# cores. What it makes goes to first-look-output/ in the current folder.
#
#   examples/cifar10/first-look.sh                                     fetches CIFAR-10 (170 MB) through torchvision
#   examples/cifar10/first-look.sh cifar10:test --data-root FOLDER     takes it from a folder that torchvision filled earlier
#   examples/cifar10/first-look.sh cifar10-test.safetensors            takes any file or folder of such images
#
# IMAGES=50 takes fewer images, CLASS_IMAGES fewer for class masks.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=${1:-cifar10:test}
if [ -e "$data" ]; then data=$(realpath "$data"); fi
options=("${@:2}" --limit "${IMAGES:-200}")
if fmtool --version 2>/dev/null | grep -q ', torch '; then set -euo pipefail; else source "$here/../setup.sh" ""; fi
mkdir -p first-look-output
cd first-look-output

echo "== 1. import the network, which is 90.28 % right on all 10,000 test images"
fmtool import-model "$here/resnet20-cifar10.safetensors" --architecture resnet20 -o model.safetensors

echo "== 2. attack the images that it gets right"
fmtool attack model.safetensors --data "$data" "${options[@]}" --attack fmn -o fmn.safetensors

echo "== 3. fit frequency masks; at lambda 0.1 most keep their class on this network, at the paper's 0.5 a fifth does"
fmtool fit-masks model.safetensors fmn.safetensors --for essential --lambda 0.1 -o essential.safetensors
fmtool fit-masks model.safetensors fmn.safetensors --for adversarial --lambda 0.1 -o adversarial.safetensors

echo "== 4. correlate the two kinds of mask"
fmtool correlate essential.safetensors adversarial.safetensors -o correlation.safetensors

echo "== 5. robust class masks (of test images, for want of others: a first look, no result)"
fmtool class-masks model.safetensors fmn.safetensors --robust --limit "${CLASS_IMAGES:-50}" -o robust.safetensors

echo "== 6. evaluate the defence, and draw"
fmtool defend model.safetensors fmn.safetensors robust.safetensors -o defense.safetensors
fmtool plot fmn.safetensors essential.safetensors adversarial.safetensors -o filtered.png
fmtool plot essential.safetensors adversarial.safetensors -o masks.png
fmtool plot robust.safetensors -o class-masks.png
fmtool report model.safetensors fmn.safetensors essential.safetensors adversarial.safetensors correlation.safetensors robust.safetensors \
  defense.safetensors -o report.html
echo "files and pictures are in first-look-output/; report.html shows all of them"
