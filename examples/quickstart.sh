#!/usr/bin/env bash
# All stages on the digits embedded in scikit-learn, in some minutes on two cores. Run it from anywhere; what it makes
# goes to quickstart-output/ in the current folder. Below the setup every line is one that you can paste.
# An fmtool that is installed already is taken; otherwise one is installed into .venv in the repository.
if fmtool --version 2>/dev/null | grep -q ', torch '; then set -euo pipefail; else source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""; fi
mkdir -p quickstart-output
cd quickstart-output

echo "== 1. train a small ResNet on 1,348 scans of digits, test it on 449 others"
fmtool train-model --data digits --architecture resnet8 --recipe one-cycle --epochs 30 --batch-size 32 --learning-rate 0.05 -o model.safetensors

echo "== 2. attack the test images that it gets right"
fmtool attack model.safetensors --data digits --attack fmn -o fmn.safetensors
fmtool attack model.safetensors --data digits --attack pgd --epsilon 0.3 -o pgd.safetensors
fmtool attack model.safetensors --data digits --attack deepfool -o deepfool.safetensors

echo "== 3. fit frequency masks: essential ones for the clean images, adversarial ones for each attack"
fmtool fit-masks model.safetensors --data digits --for essential --lambda 0.1 -o essential.safetensors
fmtool fit-masks model.safetensors fmn.safetensors --for adversarial --lambda 0.1 -o adversarial-fmn.safetensors
fmtool fit-masks model.safetensors pgd.safetensors --for adversarial --lambda 0.1 -o adversarial-pgd.safetensors
fmtool fit-masks model.safetensors deepfool.safetensors --for adversarial --lambda 0.1 -o adversarial-deepfool.safetensors

echo "== 4. correlate the two kinds of mask"
fmtool correlate essential.safetensors adversarial-fmn.safetensors -o correlation-fmn.safetensors
fmtool correlate essential.safetensors adversarial-pgd.safetensors -o correlation-pgd.safetensors
fmtool correlate essential.safetensors adversarial-deepfool.safetensors -o correlation-deepfool.safetensors

echo "== 5. class masks from 250 of the training images: plain ones, and robust ones straight from an attack through a pipe"
fmtool class-masks model.safetensors --data digits:train --limit 250 -o plain.safetensors
fmtool attack model.safetensors --data digits:train --limit 250 --attack fmn -o - | fmtool class-masks model.safetensors - --robust -o robust-fmn.safetensors
fmtool attack model.safetensors --data digits:train --limit 250 --attack pgd --epsilon 0.3 -o - | fmtool class-masks model.safetensors - --robust -o robust-pgd.safetensors
fmtool attack model.safetensors --data digits:train --limit 250 --attack deepfool -o - | fmtool class-masks model.safetensors - --robust -o robust-deepfool.safetensors

echo "== 6. evaluate the defence, draw, and show the two tables"
fmtool defend model.safetensors fmn.safetensors pgd.safetensors deepfool.safetensors robust-fmn.safetensors robust-pgd.safetensors robust-deepfool.safetensors plain.safetensors -o defense.safetensors --quiet > /dev/null
fmtool plot essential.safetensors adversarial-fmn.safetensors -o masks.png
fmtool plot fmn.safetensors essential.safetensors adversarial-fmn.safetensors -o filtered.png
fmtool plot robust-fmn.safetensors -o class-masks.png
fmtool inspect correlation-fmn.safetensors correlation-pgd.safetensors correlation-deepfool.safetensors
fmtool inspect defense.safetensors
echo "files and pictures are in quickstart-output/:"
ls *.safetensors *.png
