"""fmtool class-masks: each option reaches the stage under its own name."""

from __future__ import annotations

from pathlib import Path

from stage_calls import Called, defaults

import fmtool
from fmtool.stages.class_masks import class_masks

DATA = ("model", "--data", "digits", "--limit", 5)
OPTIONS = (
    "--robust --lambda 0.3 --basis haar --min-steps 7 --max-steps 9 --compile --device cpu --batch-size 16 "
    "--factory a:b --factory-option width=3 --allow-other-model --restart"
)


def test_every_option_reaches_the_stage(called: Called, tmp_path: Path) -> None:
    given, options = called(
        "class_masks", *DATA, *OPTIONS.split(), "-o", tmp_path / "masks",
    )  # fmt: skip
    execution = fmtool.Execution(
        device="cpu", batch_size=16, factory="a:b", factory_options={"width": 3}, allow_other_model=True,
        output=str(tmp_path / "masks"), restart=True,
    )  # fmt: skip
    assert options == {
        "robust": True, "lambda_": 0.3, "basis": "haar", "min_steps": 7, "max_steps": 9, "limit": None, "compile_": True,
        "execution": execution,
    }  # fmt: skip
    model, data = given
    assert model == "model" and (data.name, data.split, len(data)) == ("digits", "train", 5)  # the split by default


def test_defaults_are_the_stages_own(called: Called, tmp_path: Path) -> None:
    _, options = called("class_masks", *DATA, "-o", tmp_path / "masks")
    execution = options.pop("execution")
    assert options == defaults(class_masks)
    assert execution == fmtool.Execution(output=str(tmp_path / "masks"), factory_options={})


def test_the_limit_of_an_attack_file_is_the_stages(called: Called, files: Path, tmp_path: Path) -> None:
    """That of --data has been taken already."""
    given, options = called("class_masks", "model", files / "fmn.safetensors", "--limit", 5, "-o", tmp_path / "masks")
    assert options["limit"] == 5 and given[1].kind == "attack" and len(given[1]["labels"]) == 60
