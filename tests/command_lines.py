"""One short line of every command that writes a file, and what a command printed."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Outcome

FEW = "--min-steps 2 --max-steps 3"
LINES = {  # command -> arguments; IN/NAME is a file of the fixture `files`
    "train-model": "train-model --data digits --architecture resnet8 --epochs 1 --limit 40",
    "import-model": "import-model resnet8 --weights IN/model --input-shape 1,8,8",
    "attack": "attack IN/model --data digits --limit 20 --attack pgd --attack-option steps=2",
    "import-attack": "import-attack IN/model --data digits --limit 60 --adversarial IN/fmn",
    "fit-masks": f"fit-masks IN/model IN/fmn --for essential {FEW}",
    "class-masks": f"class-masks IN/model IN/fmn {FEW}",
    "correlate": "correlate IN/essential IN/adversarial --permutations 9",
    "defend": "defend IN/model IN/fmn IN/plain",
    "heatmap": "heatmap IN/model --data digits --limit 3",
    "merge": "merge IN/essential",
    "plot": "plot IN/essential --count 2",
    "report": "report IN/defense",
}


def words(line: str, files: Path, target: Path | str) -> list[str]:
    """The arguments of a line like those of `LINES`."""
    arguments = [f"{files / word[3:]}.safetensors" if word.startswith("IN/") else word for word in line.split()]
    return [*arguments, "-o", str(target)]


def only_row(outcome: Outcome) -> dict[str, object]:
    """The one row of a table printed as JSON."""
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out)["rows"]
    return dict(row)
