"""fit-masks --layer through the stages: what files hold, that mates change nothing, and what other commands make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from small_files import FEW, changed, load

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError, FmtoolWarning, ModelError
from fmtool.masks.basis import basis_of
from fmtool.runtime import resume_file
from fmtool.runtime.shards import Shard
from fmtool.stages.options import default_lambda

STEPS = {"min_steps": 60, "max_steps": 120}


def fit(files: Path, for_: str = "essential", layer: str = "layer2", **more: Any) -> Artifact:
    return fmtool.fit_masks(load(files, "model"), load(files, "fmn"), for_=for_, layer=layer, **{**FEW, **more})


@pytest.fixture(scope="module")
def folder(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of layers of the small model, each of 20 images, as files."""
    folder = tmp_path_factory.mktemp("layers")
    more: dict[str, Any] = {"min_steps": 150, "max_steps": 200, "limit": 20}
    for name, for_, layer in (("e1", "essential", "layer1"), ("e2", "essential", "layer2"), ("a2", "adversarial", "layer2"),
                              ("b2", "essential", "layer2.0"), ("ei", "essential", "input")):  # fmt: skip
        fmtool.write(fit(files, for_, layer, **more), str(folder / f"{name}.safetensors"))
    return folder


def at(folder: Path, name: str) -> Artifact:
    return fmtool.read(str(folder / f"{name}.safetensors"))


@pytest.mark.slow
def test_files_say_their_layer_and_have_its_shape(files: Path) -> None:
    masks = fit(files, layer="layer2", lambda_=None)
    assert masks.header["layer"] == masks.history[-1]["options"]["--layer"] == "layer2"
    assert masks.header["image_size"] == [4, 4] and tuple(masks["masks"].shape[1:]) == (16, 4, 3)
    assert masks.header["lambda"] == default_lambda((16, 4, 4), "label") == 0.5
    assert basis_of(masks.header, masks).shape == (4, 3)
    plain = fit(files, layer="input")
    assert plain.header["layer"] == "input" and "--layer" not in plain.history[-1]["options"]
    assert torch.equal(masks["targets"], plain["targets"]) and torch.equal(masks["key"], plain["key"])


def test_the_default_of_lambda_is_by_the_layers_shape() -> None:
    assert [default_lambda(shape, "label") for shape in ((16, 32, 32), (32, 16, 16), (64, 8, 8))] == [
        0.09375,
        0.1875,
        0.375,
    ]


@pytest.mark.slow
def test_adversarial_masks_are_of_the_adversarial_images_activations(files: Path) -> None:
    """As if those images were given as clean ones; the clean images' masks differ."""
    attack = load(files, "fmn")
    ok = attack["status"] == 0
    clean = changed(attack, images=attack["adversarial"].clone(), labels=attack["adversarial_predictions"].clone())
    model, more = load(files, "model"), {"layer": "layer1", **FEW}
    adversarial = fmtool.fit_masks(model, attack, for_="adversarial", **more)
    as_clean = fmtool.fit_masks(model, clean, for_="essential", **more)
    rows = ok[attack["status"] != 1]
    assert torch.equal(adversarial["masks"], as_clean["masks"][rows])
    assert torch.equal(adversarial["targets"], as_clean["targets"][rows])
    assert not torch.equal(adversarial["masks"], fit(files, layer="layer1")["masks"][rows])


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{}, {"basis": "dct", "adapt_lambda": True, "lambda_": 4.0}, {"objective": "invariance"}]
)
def test_shards_make_the_whole_files_bytes(more: dict[str, Any], files: Path) -> None:
    """Each image beside other mates, in other slots."""
    options = {**STEPS, "limit": 25, "perturb": 0.01, **more}
    whole = fit(files, execution=fmtool.Execution(batch_size=8), **options)
    shards = [
        fit(files, execution=fmtool.Execution(batch_size=8, shard=Shard(number, 3)), **options) for number in (1, 2, 3)
    ]
    assert fmtool.merge(shards[::-1]).digest == whole.digest
    assert torch.equal(shards[1]["masks"], whole["masks"][1::3])


class InterruptError(Exception):
    """Instead of Ctrl-C."""


def after(calls: int) -> Callable[..., None]:
    """A progress callback that ends the run at its nth call."""
    left = iter(range(calls))

    def report(*_: object) -> None:
        if next(left, None) is None:
            raise InterruptError

    return report


@pytest.mark.slow
def test_a_fit_goes_on_from_the_middle_of_its_steps(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmtool.masks import fitting

    monkeypatch.setattr(fitting, "REPORT_EVERY", 0.01)
    monkeypatch.setattr(resume_file, "SECONDS_BETWEEN", 0.0)
    options: dict[str, Any] = {"min_steps": 400, "max_steps": 600, "limit": 20}
    whole = fit(files, execution=fmtool.Execution(batch_size=8), **options)
    ended = 0
    while True:
        execution = fmtool.Execution(batch_size=8, output=str(tmp_path / "x"), progress=after(20))
        try:
            found = fit(files, execution=execution, **options)
            break
        except InterruptError:
            ended += 1
    assert ended >= 2 and found.digest == whole.digest


@pytest.mark.slow
def test_another_layer_starts_over(files: Path, tmp_path: Path) -> None:
    """The progress of one layer's masks isn't taken for another's."""
    target = str(tmp_path / "x")
    with pytest.raises(InterruptError):
        fit(files, execution=fmtool.Execution(output=target, progress=after(0)))
    with pytest.warns(FmtoolWarning, match="starting over"):
        found = fit(files, layer="layer3", execution=fmtool.Execution(output=target))
    assert found.digest == fit(files, layer="layer3").digest


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("layer1.0.bn1", "another path leads around it; expected input or conv1, bn1, layer1, layer1.0, layer2, "),
        ("linear", "its output is 10 an image, not channels x height x width; expected input or conv1, "),
        ("nowhere", "the network has no such layer; expected input or conv1, "),
    ],
)
def test_a_layer_that_cannot_be_cut_is_one_line(layer: str, reason: str, files: Path, run: Run, tmp_path: Path) -> None:
    line = ["fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "essential"]
    outcome = run(*line, "--layer", layer, "-o", tmp_path / "x")
    assert outcome.code == 1 and outcome.out == ""
    assert outcome.err.startswith(f"fmtool: error: --layer {layer}: {reason}") and outcome.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_correlate_takes_masks_of_one_layer(folder: Path, run: Run) -> None:
    correlation = fmtool.correlate(at(folder, "e2"), at(folder, "a2"), statistics=["cosine", "idcor"], permutations=9)
    assert [side["layer"] for side in correlation.header["sides"]] == ["layer2", "layer2"]
    assert correlation.header["sides"][0]["residue"]["columns"] == 16 * 4 * 4
    path = folder / "correlation.safetensors"
    fmtool.write(correlation, str(path))
    assert run("inspect", path, path, "--format", "csv").out.splitlines()[1].startswith('"FMN, layer2: ')


def test_two_layers_are_compared_only_where_shapes_fit(folder: Path) -> None:
    alike, options = (at(folder, "e2"), at(folder, "b2")), {"statistics": ["cosine"], "permutations": 9}
    with pytest.warns(FmtoolWarning, match=r"are masks of two layers, layer2 and layer2\.0"):
        found = fmtool.correlate(*alike, **options)
    assert found.header["statistics"][0]["observed"] == pytest.approx(1)  # the layer's only block
    reason = r"masks of two layers, layer1 and layer2, have different shapes, \[8, 8, 5\] and \[16, 4, 3\]"
    with pytest.raises(ArtifactError, match=reason):
        fmtool.correlate(at(folder, "e1"), at(folder, "e2"), **options)
    with pytest.raises(ArtifactError, match="masks of two layers, input and layer2, have different shapes"):
        fmtool.correlate(at(folder, "ei"), at(folder, "e2"), **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["e2", "a2"])
def test_check_masks_filters_activations(name: str, folder: Path, files: Path) -> None:
    """The fitted masks keep their class as often as the fit found; no filter keeps all."""
    masks = at(folder, name)
    checked = fmtool.check_masks(load(files, "model"), load(files, "fmn"), masks, draws=2)
    assert checked.entries == 16 * 4 * 4 and checked.n == 20
    kept = {control.name: control.preserved.value for control in checked.controls}
    assert kept["no filter"] == 1
    assert kept["fitted mask"] == pytest.approx(float(masks["preserved_stored"].double().mean()))


def test_check_masks_refuses_a_layer_that_does_not_fit(folder: Path, files: Path) -> None:
    masks, arguments = at(folder, "e2"), (load(files, "model"), load(files, "fmn"))
    masks.header["layer"] = "layer1"
    with pytest.raises(ArtifactError, match=r"the output of layer layer1 is \[8, 8\] with 8 channels"):
        fmtool.check_masks(*arguments, masks)
    masks.header["layer"] = "nowhere"
    with pytest.raises(ModelError, match="--layer nowhere: the network has no such layer"):
        fmtool.check_masks(*arguments, masks)


def test_inspect_and_spectra_name_the_layer(folder: Path, run: Run) -> None:
    table = run("inspect", folder / "e2.safetensors", "--format", "json")
    (row,) = json.loads(table.out)["rows"]
    assert row["of"] == 256 and "layer2" in json.loads(table.out)["notes"][0]
    assert "essential masks, layer2: mean radial frequency" in run("inspect", folder / "e2.safetensors").out
    spectra = json.loads(run("inspect", "--spectrum", *(folder / f"{name}.safetensors" for name in ("e2", "a2", "ei")),
                             "--format", "json").out)  # fmt: skip
    assert [row["pairs"] for row in spectra["rows"]] == [None, 20, None]
    assert any("one place of its output" in note for note in spectra["notes"])
    history = run("inspect", folder / "e2.safetensors", "--history").out
    assert "--layer layer2" in history


@pytest.mark.slow
def test_plot_draws_masks_and_refuses_to_show_them_on_images(folder: Path, files: Path, run: Run) -> None:
    e2, a2, ei, e1 = (folder / f"{name}.safetensors" for name in ("e2", "a2", "ei", "e1"))
    for figure, paths in (("masks", [e2, a2, ei]), ("mean-mask", [e2, a2]), ("radial", [e2, a2])):
        target = folder / f"{figure}.png"
        assert run("plot", *paths, "--figure", figure, "-o", target).code == 0 and target.stat().st_size > 1000
    fmn, heat = files / "fmn.safetensors", files / "heatmap.safetensors"
    for figure, paths, expected in (
        ("filtered", [fmn, e2], "one attack file and masks files of images, not of a layer"),
        ("radial", [fmn, e2], "masks and attack files, all of images or of one layer"),
        ("mean-mask", [e1, e2], "masks or class-masks files, all of images or of one layer"),
        ("compare", [heat, fmn, e2, a2], "two masks files of images"),
    ):
        outcome = run("plot", *paths, "--figure", figure, "-o", folder / "no.png")
        assert outcome.code == 1 and expected in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.slow
def test_merge_report_and_verify(folder: Path, files: Path, run: Run) -> None:
    e2, e1, ei, model, fmn = (
        *(folder / f"{name}.safetensors" for name in ("e2", "e1", "ei")),
        files / "model.safetensors",
        files / "fmn.safetensors",
    )
    outcome = run("merge", e1, e2, "-o", folder / "no.safetensors")
    assert outcome.code == 1 and "option 'layer' of fit-masks is layer2 and layer1" in outcome.err
    outcome = run("merge", ei, e2, "-o", folder / "no.safetensors")
    assert outcome.code == 1 and "option 'layer' of fit-masks is layer2 and input" in outcome.err
    assert run("verify", model, fmn, e2).code == 0
    assert run("report", model, fmn, e1, e2, ei, files / "heatmap.safetensors", "-o", folder / "report.html").code == 0
    page = (folder / "report.html").read_text()
    assert "Mean masks at layer1" in page and "Mean masks at layer2" in page and "essential masks, layer1" in page


def test_commands_of_images_masks_refuse_them(folder: Path, files: Path, run: Run) -> None:
    model, fmn, e2 = files / "model.safetensors", files / "fmn.safetensors", folder / "e2.safetensors"
    outcome = run("defend", model, fmn, e2)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    outcome = run("class-masks", model, e2, "--robust", "-o", folder / "no.safetensors")
    assert outcome.code == 1 and outcome.err.count("\n") == 1


def test_layers_are_listed(files: Path, run: Run) -> None:
    model = files / "model.safetensors"
    rows = json.loads(run("inspect", model, "--layers", "--format", "json").out)["rows"]
    assert {"layer": "layer2.0", "type": "Block", "output": "16x4x4", "fit-masks --layer": True} in rows
    assert {"layer": "linear", "type": "Linear", "output": "10", "fit-masks --layer": False} in rows
    short = run("inspect", model).out
    assert "layer3 " in short and "linear" not in short and "which --layer takes" in short
    for other in ("fmn", "essential"):
        outcome = run("inspect", files / f"{other}.safetensors", "--layers")
        assert outcome.code == 1 and "--layers is for model files" in outcome.err
    assert json.loads(run("inspect", model, "--format", "json").out)["title"] == "Model"
    older = Path(__file__).parents[1] / "schema-1" / "model.safetensors"
    outcome = run("inspect", older, "--layers")
    assert outcome.code == 1 and "made by an older fmtool" in outcome.err
