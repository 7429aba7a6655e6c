"""fmtool import-attack: each option reaches the stage under its own name."""

from __future__ import annotations

from pathlib import Path

from stage_calls import Called, defaults

import fmtool
from fmtool.stages.import_attack import import_attack

DATA = ("model", "--data", "digits", "--limit", 5, "--adversarial", "adv.npy")
OPTIONS = (
    "--name autoattack --device cpu --batch-size 16 --factory a:b --factory-option width=3 --factory-option kind=plain"
)


def test_every_option_reaches_the_stage(called: Called, tmp_path: Path) -> None:
    (model, data), options = called(
        "import_attack", *DATA, *OPTIONS.split(), "-o", tmp_path / "attack",
    )  # fmt: skip
    execution = fmtool.Execution(
        device="cpu", batch_size=16, factory="a:b", factory_options={"width": 3, "kind": "plain"},
        output=str(tmp_path / "attack"),
    )  # fmt: skip
    assert options == {"adversarial": "adv.npy", "name": "autoattack", "execution": execution}
    assert model == "model" and (data.name, data.split, len(data)) == ("digits", "test", 5)


def test_defaults_are_the_stages_own(called: Called, tmp_path: Path) -> None:
    _, options = called("import_attack", *DATA, "-o", tmp_path / "attack")
    assert options["name"] == defaults(import_attack)["name"]
