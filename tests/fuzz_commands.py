"""The commands that the fuzzer gives a file of each kind to."""

from __future__ import annotations

FEW = "--min-steps 1 --max-steps 2 --limit 4"
KINDS = {
    "model": "model", "fmn": "attack", "essential": "masks", "adversarial": "masks", "plain": "class-masks",
    "robust": "class-masks", "correlation": "correlation", "defense": "defense",
    "heatmap": "heatmap",
}  # fmt: skip
# kind -> command lines; BAD is the file, IN/NAME a good one, OUT the target
COMMANDS = {
    "model": [
        "attack BAD --data digits --limit 8 --attack-option steps=2 -o OUT",
        f"fit-masks BAD IN/fmn --for essential --allow-other-model {FEW} -o OUT",
        f"class-masks BAD IN/fmn --allow-other-model {FEW} -o OUT",
        "defend BAD IN/fmn IN/plain --allow-other-model -o OUT",
        "check-masks BAD IN/fmn IN/essential --allow-other-model --draws 1",
        "train-model --from BAD --data digits --limit 32 --epochs 1 -o OUT",
        "import-model BAD --architecture resnet8 --input-shape 1,8,8 -o OUT",
        "heatmap BAD --data digits --limit 4 --filters -o OUT",
        "report BAD -o OUT",
    ],
    "attack": [
        f"fit-masks IN/model BAD --for essential {FEW} -o OUT",
        f"fit-masks IN/model BAD --for adversarial {FEW} -o OUT",
        f"class-masks IN/model BAD --robust {FEW} -o OUT",
        "defend IN/model BAD IN/plain -o OUT",
        "defend IN/model IN/fmn BAD IN/plain -o OUT",
        "check-masks IN/model BAD IN/essential --draws 1",
        "attack IN/model --data BAD --limit 8 --attack-option steps=2 -o OUT",
        "import-attack IN/model --data digits --limit 60 --adversarial BAD -o OUT",
        "merge BAD IN/fmn -o OUT",
        "inspect --spectrum BAD",
        "plot BAD -o OUT.png",
        "plot BAD IN/essential -o OUT.png",
        "report BAD -o OUT",
    ],
    "masks": [
        "correlate BAD IN/adversarial --permutations 3 -o OUT",
        "correlate IN/essential BAD --permutations 3 --statistics cosine,svcca -o OUT",
        "check-masks IN/model IN/fmn BAD --draws 1",
        "merge BAD IN/essential -o OUT",
        "inspect --spectrum BAD IN/essential",
        "plot BAD IN/essential -o OUT.png",
        "plot BAD --figure mean-mask -o OUT.png",
        "plot IN/fmn BAD -o OUT.png",
        "report BAD -o OUT",
    ],
    "class-masks": [
        "defend IN/model IN/fmn BAD -o OUT",
        "attack IN/model --data digits --limit 8 --restarts 1 --attack-option steps=2 --defense BAD -o OUT",
        "check-masks IN/model IN/fmn BAD --draws 1",
        "inspect --spectrum BAD",
        "plot BAD -o OUT.png",
        "plot BAD --figure mean-mask -o OUT.png",
        "report BAD -o OUT",
    ],
    "correlation": [
        "inspect BAD IN/correlation", "plot BAD -o OUT.png", "plot BAD --figure cosine -o OUT.png",
        "plot BAD --figure subsample -o OUT.png", "plot BAD --figure classes -o OUT.png", "report BAD -o OUT",
    ],
    "defense": ["inspect BAD IN/defense --format json", "plot BAD -o OUT.png", "report BAD -o OUT"],
    "heatmap": [
        "inspect BAD IN/heatmap", "plot BAD -o OUT.png", "plot BAD IN/fmn IN/essential IN/adversarial -o OUT.png",
        "merge BAD IN/heatmap -o OUT", "report BAD IN/fmn IN/essential IN/adversarial -o OUT",
    ],
    "images.safetensors": [
        "attack IN/model --data BAD --limit 8 --attack-option steps=2 -o OUT",
        "train-model --data BAD --architecture resnet8 --limit 16 --epochs 1 -o OUT",
        f"fit-masks IN/model --data BAD --for essential {FEW} -o OUT",
    ],
    "matrix.safetensors": ["correlate BAD BAD --permutations 3 --statistics svcca,cosine,idcor -o OUT"],
    "weights.safetensors": ["import-model BAD --architecture resnet8 --input-shape 1,8,8 -o OUT"],
    "weights.pth": ["import-model BAD --architecture resnet8 --input-shape 1,8,8 -o OUT"],
    "old.pth": ["import-model BAD --architecture resnet8 --input-shape 1,8,8 -o OUT"],
    "images.zip": ["train-model --data BAD --size 8 --architecture resnet8 --epochs 1 -o OUT"],
}  # fmt: skip
for lines in COMMANDS.values():
    lines += ["verify BAD IN/model"]
for kind in set(KINDS.values()):
    COMMANDS[kind] += ["inspect BAD --history"]
