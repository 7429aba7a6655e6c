"""fmtool fit-masks: each option reaches the stage under its own name."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from stage_calls import Called, defaults

import fmtool
from fmtool.runtime.shards import Shard
from fmtool.stages.fit_masks import fit_masks

DATA = ("model", "--data", "digits", "--limit", 5, "--for", "essential")
OPTIONS = (
    "--lambda 0.3 --adapt-lambda --basis dct --objective invariance --min-steps 7 --max-steps 9 --precision bfloat16 "
    "--perturb 0.25 --seed 4 --no-compile --device cpu --batch-size 16 --factory a:b --factory-option width=3 "
    "--batch-dependent --allow-other-model --shard 2/3 --restart --layer layer1"
)


def test_every_option_reaches_the_stage(called: Called, tmp_path: Path) -> None:
    given, options = called(
        "fit_masks", *DATA, *OPTIONS.split(), "-o", tmp_path / "masks",
    )  # fmt: skip
    execution = fmtool.Execution(
        device="cpu", batch_size=16, factory="a:b", factory_options={"width": 3}, batch_dependent=True,
        allow_other_model=True, output=str(tmp_path / "masks"), shard=Shard(2, 3), restart=True,
    )  # fmt: skip
    assert options == {
        "for_": "essential", "lambda_": 0.3, "adapt_lambda": True, "basis": "dct", "objective": "invariance",
        "min_steps": 7, "max_steps": 9, "limit": None, "precision": "bfloat16", "perturb": 0.25, "seed": 4,
        "compile_": False, "layer": "layer1", "execution": execution,
    }  # fmt: skip
    model, data = given
    assert model == "model" and (data.name, len(data)) == ("digits", 5)


def test_defaults_are_the_stages_own(called: Called, tmp_path: Path) -> None:
    _, options = called("fit_masks", *DATA, "-o", tmp_path / "masks")
    execution = options.pop("execution")
    assert options == {**defaults(fit_masks), "for_": "essential"}
    assert execution == fmtool.Execution(output=str(tmp_path / "masks"), factory_options={})


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (("model", "--for", "essential"), 1, "expected either an attack file or --data SOURCE"),
        (("model", "attack", "--data", "digits", "--for", "essential"), 1, "expected either an attack file or --data"),
        ((*DATA, "--shard", "0/3"), 1, "--shard 0/3: expected I/N"),
        ((*DATA, "--factory-option", "width"), 1, "--factory-option width: expected KEY=VALUE"),
        (("model", "--data", "digits"), 2, "--for"),
        ((*DATA, "--precision", "float16"), 2, "float16"),
    ],
)
def test_what_is_missing_or_wrong_is_told(
    line: tuple[object, ...], code: int, said: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fmtool, "read", lambda path, *kinds: path)
    outcome = run("fit-masks", *line, "-o", tmp_path / "masks")
    assert outcome.code == code and said in outcome.err and "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []
