"""What surrounds a command's work: its target, warnings, debugging, and the images or attack that it reads."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from conftest import Run
from small_files import load

from fmtool.artifacts.output import write_bytes
from fmtool.artifacts.streaming import FileTensors
from fmtool.cli.progress import Bar
from fmtool.cli.session import DataOptions, read_source, working
from fmtool.datasets.registry import DATA_ROOT
from fmtool.errors import ArtifactError, DataError, FmtoolError, FmtoolWarning

QUIET = Bar(quiet=True)


@pytest.mark.parametrize("quiet", [False, True])
def test_our_warnings_become_lines_and_others_stay(quiet: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="of a library") as caught, working(None, quiet=quiet, debug=False):
        warnings.warn("of a library", UserWarning, stacklevel=1)
        for _ in range(2):  # the same line once
            warnings.warn(FmtoolWarning("few [images] of run:100:x"), stacklevel=1)
    assert len(caught) == 1
    assert capfd.readouterr() == ("", "" if quiet else "fmtool: warning: few [images] of run:100:x\n")


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_knows_whether_to_show_its_traceback(debug: bool) -> None:
    with pytest.raises(FmtoolError) as caught, working(None, quiet=True, debug=debug):
        raise DataError("none")
    assert caught.value.debug == debug


def test_a_target_that_can_not_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="nowhere"),
        working(str(tmp_path / "nowhere" / "file"), quiet=True, debug=False),
    ):
        pytest.fail("began to work")


def test_data_are_read_as_the_options_say() -> None:
    assert DataOptions().load("digits", QUIET).split == "test"
    assert DataOptions().load("digits", QUIET, "train").split == "train"
    data = DataOptions(size=4, limit=3, rows="10:20").load("digits", QUIET)
    assert data.images.shape == (3, 1, 4, 4) and all(10 <= index < 20 for index in data.index.tolist())
    with pytest.raises(DataError, match="--pixel-range"):
        DataOptions(pixel_range="dark").load("digits", QUIET)


def test_masks_are_fitted_to_an_attack_or_to_data(files: Path) -> None:
    attack = str(files / "fmn.safetensors")
    source = read_source(attack, None, DataOptions(), QUIET)
    assert source.digest == load(files, "fmn").digest
    assert isinstance(source.tensors, FileTensors)  # type: ignore[union-attr]
    assert read_source(None, "digits", DataOptions(limit=2), QUIET, default="train").split == "train"  # type: ignore[union-attr]
    for given in ((None, None), (attack, "digits")):
        with pytest.raises(FmtoolError, match=r"^expected either an attack file or --data SOURCE$"):
            read_source(*given, DataOptions(), QUIET)
    with pytest.raises(ArtifactError, match="expected an attack file, got a file of kind masks"):
        read_source(str(files / "essential.safetensors"), None, DataOptions(), QUIET)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", 8),
        ("rows", "0:5"),
        ("layout", "hwc"),
        ("pixel_range", "0,1"),
        ("classes_by_position", True),
        ("data_root", "x"),
    ],
)
def test_options_about_data_are_refused_beside_an_attack_file(files: Path, option: str, value: object) -> None:
    """They would be ignored. --limit is about both."""
    how = DataOptions(**{option: value})  # type: ignore[arg-type]
    with pytest.raises(
        FmtoolError, match=f"^--{option.replace('_', '-')} applies to --data; an attack file has its own"
    ):
        read_source(str(files / "fmn.safetensors"), None, how, QUIET)


def test_a_data_root_of_the_environment_is_no_option_about_data(
    files: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "essential", "--limit", 2]
    line += ["--min-steps", 0, "--max-steps", 1, "-o", tmp_path / "masks"]
    refused = run(*line, "--data-root", tmp_path)
    assert refused.code == 1 and "--data-root applies to --data" in refused.err
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    assert run(*line).code == 0
    monkeypatch.setenv(DATA_ROOT, str(tmp_path / "nowhere"))
    assert "nowhere: no such folder" in run("inspect", "cifar10").err  # where data are read it counts


def test_standard_output_is_for_results(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What a network or a library prints must not stand in a file that is written to it."""
    with working("-", quiet=True, debug=False):
        print("step 1")
        write_bytes(b"result", "-")
        print("step 2")
    print("table")
    assert capfdbinary.readouterr() == (b"resulttable\n", b"step 1\nstep 2\n")
