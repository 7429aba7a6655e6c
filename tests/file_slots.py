"""Where every command takes a file, and how such a file may be damaged, with what the error must then say."""

from __future__ import annotations

# MODEL, FMN and files/NAME are good files of the fixture `files`, bad/NAME are of forged.py, OUT is the target.
# Where a command takes an artifact, BAD is the file in question.
ARTIFACT_SLOTS = {
    "train-model --from": "train-model --data digits --from BAD -o OUT",
    "attack MODEL": "attack BAD --data digits --limit 10 -o OUT",
    "fit-masks MODEL": "fit-masks BAD FMN --for essential -o OUT",
    "fit-masks ATTACK": "fit-masks MODEL BAD --for adversarial -o OUT",
    "correlate A": "correlate BAD files/adversarial -o OUT",
    "correlate B": "correlate files/essential BAD -o OUT",
    "class-masks MODEL": "class-masks BAD --data digits -o OUT",
    "class-masks ATTACK": "class-masks MODEL BAD --robust -o OUT",
    "defend MODEL": "defend BAD FMN files/plain -o OUT",
    "defend ATTACK": "defend MODEL BAD files/plain -o OUT",
    "defend CLASSMASKS": "defend MODEL FMN BAD -o OUT",
    "attack --defense": "attack MODEL --data digits --limit 10 --defense BAD -o OUT",
    "check-masks MODEL": "check-masks BAD FMN files/essential",
    "check-masks ATTACK": "check-masks MODEL BAD files/essential",
    "check-masks MASKS": "check-masks MODEL FMN BAD",
    "heatmap MODEL": "heatmap BAD --data digits --limit 2 -o OUT",
    "merge FILE": "merge BAD -o OUT",
    "inspect FILE": "inspect BAD",
    "inspect --spectrum": "inspect --spectrum BAD",
    "plot FILE": "plot BAD -o OUT.png",
    "plot --same-images-as": "plot files/essential --same-images-as BAD -o OUT.png",
    "report FILE": "report BAD -o OUT",
}
# where a command takes images or a checkpoint, which fmtool's own files can be too
OTHER_SLOTS = {
    "train-model --data": "train-model --data BAD -o OUT",
    "train-model --test-data": "train-model --data digits --test-data BAD -o OUT",
    "attack --data": "attack MODEL --data BAD -o OUT",
    "fit-masks --data": "fit-masks MODEL --data BAD --for essential -o OUT",
    "class-masks --data": "class-masks MODEL --data BAD -o OUT",
    "heatmap --data": "heatmap MODEL --data BAD -o OUT",
    "import-model SOURCE": "import-model BAD --architecture resnet8 --input-shape 1,8,8 -o OUT",
    "import-model --weights": "import-model resnet8 --weights BAD --input-shape 1,8,8 -o OUT",
}
DAMAGES = {
    "missing": r"missing\.safetensors: (can't be read: No such file|no such file)",
    "folder": r"(can't be read: Is a directory|holds no images|no such file|goes with a checkpoint|is data)",
    "empty": r"empty\.safetensors: not a complete safetensors file",
    "text": r"text\.safetensors: not a complete safetensors file",
    "truncated": r"truncated\.safetensors: not a complete safetensors file",
    "changed": r"changed\.safetensors: the content does not match its digest",
    "foreign": r"foreign\.safetensors: (.*(expected|don't fit)|is data)",
    "correlation": r"correlation\.safetensors: .*(expected|don't fit)",
}
