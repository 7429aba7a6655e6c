"""Devices that fail: too little memory halves the batch, and a GPU that is lost is an error and no run elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_lines import FEW, LINES, words
from conftest import Run, commands_with, factory

import fmtool
from fmtool.artifacts.progress import Progress
from fmtool.runtime import resume_file
from fmtool.stages.options import Execution

FORWARD = """if len(images) > LIMIT and (images.requires_grad or not GRADIENTS) and not (images == 0.5).all():
    raise ERROR
return self.linear(images.flatten(1))"""
ERRORS = {
    "memory of a GPU": "torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')",
    "memory": 'RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can\'t allocate memory: 99 bytes")',
    "memory for gradients": "MemoryError('of the forward pass there was enough')",
    "a lost GPU": "torch.AcceleratorError('CUDA error: unspecified launch failure')",
    "an old lost GPU": "RuntimeError('CUDA error: device-side assert triggered')",
}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Callable[[int, str], str]:
    """Write a module whose network raises above a batch, and a model file of it; gives the file's path."""
    monkeypatch.chdir(tmp_path)

    def call(limit: int, error: str) -> str:
        name = f"faulty_{limit}_{abs(hash(error))}"
        text = factory(FORWARD, f"LIMIT = {limit}").replace("ERROR", ERRORS[error])
        (tmp_path / f"{name}.py").write_text(text.replace("GRADIENTS", str("gradients" in error)))
        found = run("import-model", f"{name}:make", "--input-shape", "1,8,8", "-o", tmp_path / f"{name}.safetensors")
        assert found.code == 0, found.err
        return name

    return call


STAGES = {
    "defend": "defend {0}.safetensors IN/fmn IN/plain --allow-other-model --factory {0}:make",
    "check-masks": "check-masks {0}.safetensors IN/fmn IN/essential --allow-other-model --factory {0}:make --draws 1",
    "heatmap": "heatmap {0}.safetensors --data digits --limit 200 --factory {0}:make",
    "import-attack": "import-attack {0}.safetensors --data digits --limit 60 --adversarial IN/fmn --factory {0}:make",
    "attack": "attack {0}.safetensors --data digits --factory {0}:make --attack pgd --attack-option steps=2",
    "fit-masks": f"fit-masks {{0}}.safetensors --data digits --for essential --factory {{0}}:make {FEW}",
    "class-masks": f"class-masks {{0}}.safetensors --data digits --factory {{0}}:make {FEW}",
}
SIZE = 256  # the images per batch that a stage begins with, of the size of the digits


@pytest.mark.slow
@pytest.mark.parametrize("error", ["memory of a GPU", "memory"])
@pytest.mark.parametrize("command", STAGES)
def test_out_of_memory_halves_the_batch(
    command: str, error: str, made: Callable[[int, str], str], run: Run, files: Path, tmp_path: Path
) -> None:
    line = STAGES[command].format(made(SIZE // 3, error))
    target = ["-o", str(tmp_path / "result")] if command != "check-masks" else []
    found = run(*words(line, files, "")[:-2], *target)
    assert found.code == 0, found.err
    lines = [text for text in found.err.splitlines() if "out of memory" in text]
    assert [text.split(":")[2].strip() for text in lines] == [
        f"out of memory with {SIZE} images per batch", f"out of memory with {SIZE // 2} images per batch",
    ]  # fmt: skip
    assert f"as with --batch-size {SIZE // 4}" in lines[1] and "bytes may differ" in lines[1]
    again = run(
        *words(line, files, "")[:-2], "--batch-size", SIZE // 4, *(["-o", str(tmp_path / "again")] if target else [])
    )
    assert again.code == 0 and "out of memory" not in again.err and again.out == found.out
    if target:
        assert (tmp_path / "result").read_bytes() == (tmp_path / "again").read_bytes()
        assert fmtool.read(str(tmp_path / "result")).history[-1]["options"]["--batch-size"] == SIZE // 4


@pytest.mark.slow
@pytest.mark.parametrize("command", STAGES)
@pytest.mark.parametrize("error", ["memory of a GPU", "memory"])
def test_memory_that_is_too_little_for_one_image_is_an_error(
    command: str,
    error: str,
    made: Callable[[int, str], str],
    run: Run,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once the batch has been halved down to one; the grey images of the check at the start are let through."""
    name = made(100, error)
    monkeypatch.setattr(sys.modules[name], "LIMIT", 0)
    target = ["-o", str(tmp_path / "result")] if command != "check-masks" else []
    found = run(*words(STAGES[command].format(name), files, "")[:-2], "--batch-size", 4, *target)
    assert found.code == 1 and found.out == "" and not (tmp_path / "result").exists()
    *warned, last = found.err.splitlines()
    assert [re.findall(r"out of memory with (\d) images", line) for line in warned] == [["4"], ["2"]], found.err
    assert re.match(r"fmtool: error: out of memory \(.*\): expected a smaller --batch-size, or a device", last), (
        found.err
    )


@pytest.mark.parametrize("error", ["a lost GPU", "an old lost GPU"])
def test_device_that_fails_is_an_error_and_no_run_elsewhere(
    error: str, made: Callable[[int, str], str], run: Run, files: Path, tmp_path: Path
) -> None:
    line = STAGES["defend"].format(made(100, error))
    found = run(*words(line, files, tmp_path / "result"))
    assert found.code == 1 and found.out == "" and not (tmp_path / "result").exists()
    *told, last = found.err.splitlines()
    assert last.startswith("fmtool: error: the GPU failed, and nothing was computed elsewhere: CUDA error: ")
    assert all(line.startswith("fmtool: warning: ") for line in told)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["attack", "fit-masks", "class-masks"])
def test_memory_that_is_too_little_after_the_passes_before_the_work(
    command: str,
    made: Callable[[int, str], str],
    run: Run,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What these have saved another batch may lose."""
    monkeypatch.setattr(resume_file, "SECONDS_BETWEEN", 0.0)
    line = STAGES[command].format(made(SIZE // 3, "memory for gradients"))
    found = run(*words(line, files, tmp_path / "result"))
    assert found.code == 0 and "saved progress" not in found.err, found.err
    assert f"out of memory with {SIZE} images" in found.err and f"out of memory with {SIZE // 2} images" in found.err
    again = run(*words(line, files, tmp_path / "again"), "--batch-size", SIZE // 4)
    assert again.code == 0 and (tmp_path / "result").read_bytes() == (tmp_path / "again").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "few"),
    [(fmtool.attack, {"attack": "pgd", "attack_options": {"steps": 2}}),
     (fmtool.fit_masks, {"lambda_": 0.1, "min_steps": 1000, "max_steps": 1000}),
     (fmtool.class_masks, {"min_steps": 20, "max_steps": 20})],
    ids=["attack", "fit-masks", "class-masks"],
)  # fmt: skip
def test_a_batch_that_was_halved_is_that_of_the_same_command(
    stage: Callable[..., fmtool.Artifact],
    few: dict[str, object],
    made: Callable[[int, str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed, it resumes with it; another command doesn't."""
    monkeypatch.setattr(resume_file, "SECONDS_BETWEEN", 0.0)
    name, target = made(SIZE // 3, "memory"), str(tmp_path / "target")
    model, data = fmtool.read(f"{name}.safetensors"), fmtool.load_data("digits:all")
    usual = Execution(factory=f"{name}:make")
    kinds = ("out of memory", "resuming", "progress is saved", target)

    def stop(label: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    def said(progress: Progress | None = None, **more: object) -> list[str]:
        execution = dataclasses.replace(usual, output=target, progress=progress)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with contextlib.suppress(KeyboardInterrupt):
                stage(model, data, **{**few, **more}, execution=execution)
        lines = [str(one.message).partition(":")[0].partition(" (")[0] for one in warned]
        return [line for line in lines if line.startswith(kinds)]

    halved = [f"out of memory with {batch} images per batch" for batch in (SIZE, SIZE // 2)]
    assert said(progress=stop) == [*halved, "progress is saved"]
    on = f"resuming with {SIZE // 4} images per batch, which fitted into memory"
    assert said(progress=stop) == [on, "progress is saved"]
    assert said() == [on]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = stage(model, data, **few, execution=dataclasses.replace(usual, batch_size=SIZE // 4))
    assert fmtool.read(target).digest == whole.digest
    other = {"seed": 1} if stage is fmtool.attack else {"limit": 100}
    assert said(progress=stop, **other) == [*halved, "progress is saved"]
    assert said() == [f"{target}", *halved]  # starts over


@pytest.mark.parametrize("command", ["fit-masks IN/model IN/fmn --for essential", "class-masks IN/model IN/fmn"])
def test_lambda_that_float32_does_not_hold(command: str, run: Run, files: Path, tmp_path: Path) -> None:
    found = run(*words(f"{command} --lambda 1e305", files, tmp_path / "masks"))
    expected = "fmtool: error: --lambda 1e+305: expected a number of at least 0 and at most 1e15\n"
    assert (found.code, found.err) == (1, expected)
    assert list(tmp_path.iterdir()) == []


def test_gpu_that_is_not_there(run: Run, files: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    lines = {**LINES, "check-masks": "check-masks IN/model IN/fmn IN/essential"}
    for command in commands_with("--device"):
        target = ["-o", tmp_path / "result"] if command in LINES else []
        found = run(*words(lines[command], files, "")[:-2], *target, "--device", "cuda")
        assert found.code == 1 and found.err.startswith(
            "fmtool: error: --device cuda: expected auto, cpu, cuda or cuda:N"
        )
        assert list(tmp_path.iterdir()) == []
