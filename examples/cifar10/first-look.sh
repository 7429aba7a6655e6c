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
options=("${@:2}" --limit "${IMAGES:-200}")
if fmtool --version 2>/dev/null | grep -q ', torch '; then set -euo pipefail; else source "$here/../setup.sh" ""; fi
out=first-look-output
mkdir -p "$out"

echo "== 1. import the network, which is 90.28 % right on all 10,000 test images"
fmtool import-model "$here/resnet20-cifar10.safetensors" --architecture resnet20 -o "$out/model.safetensors"

echo "== 2. attack the images that it gets right"
fmtool attack "$out/model.safetensors" --data "$data" "${options[@]}" --attack fmn -o "$out/fmn.safetensors"

echo "== 3. fit frequency masks; at lambda 0.1 most keep their class on this network, at the paper's 0.5 a fifth does"
fmtool fit-masks "$out"/{model,fmn}.safetensors --for essential --lambda 0.1 -o "$out/essential.safetensors"
fmtool fit-masks "$out"/{model,fmn}.safetensors --for adversarial --lambda 0.1 -o "$out/adversarial.safetensors"

echo "== 4. correlate the two kinds of mask"
fmtool correlate "$out"/{essential,adversarial}.safetensors -o "$out/correlation.safetensors"

echo "== 5. robust class masks (of test images, for want of others: a first look, no result)"
fmtool class-masks "$out"/{model,fmn}.safetensors --robust --limit "${CLASS_IMAGES:-50}" -o "$out/robust.safetensors"

echo "== 6. evaluate the defence, and draw"
fmtool defend "$out"/{model,fmn,robust}.safetensors -o "$out/defense.safetensors"
fmtool plot "$out"/{fmn,essential,adversarial}.safetensors -o "$out/filtered.png"
fmtool plot "$out"/{essential,adversarial}.safetensors -o "$out/masks.png"
fmtool plot "$out/robust.safetensors" -o "$out/class-masks.png"
fmtool report "$out"/{model,fmn,essential,adversarial,correlation,robust,defense}.safetensors -o "$out/report.html"
echo "files and pictures are in $out/; report.html shows all of them"
