"""Faults: a full disk, a folder that is not ours, input that changes while it is read, a reader that goes, memory, a lost GPU.

Each ends in one clear line, the old target whole and nothing beside it but the side file to go on from; then the same command
works.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import Outcome, Run

import fmtool
from fmtool import artifacts, row_files, side_files
from fmtool.__main__ import run as run_command
from fmtool.errors import ArtifactError, FmtoolWarning, ModelError
from fmtool.stages import faults

FEW = "--min-steps 2 --max-steps 3"
LINES = {  # IN/NAME: a file of the fixture `files`
    "train-model": "train-model --data digits --architecture resnet8 --epochs 1 --limit 40",
    "import-model": "import-model resnet8 --weights IN/model --input-shape 1,8,8",
    "attack": "attack IN/model --data digits --limit 20 --attack pgd --attack-option steps=2",
    "fit-masks": f"fit-masks IN/model IN/fmn --for essential {FEW}",
    "class-masks": f"class-masks IN/model IN/fmn {FEW}",
    "correlate": "correlate IN/essential IN/adversarial --permutations 9",
    "defend": "defend IN/model IN/fmn IN/plain",
    "merge": "merge IN/essential",
    "plot": "plot IN/essential --count 2",
    "report": "report IN/defense",
}


def words(line: str, files: Path, target: Path | str) -> list[str]:
    """The arguments of a line of the table."""
    found = [f"{files / word[3:]}.safetensors" if word.startswith("IN/") else word for word in line.split()]
    return [*found, "-o", str(target)]


def process(arguments: list[str], before: Callable[[], object] | None = None, **more: object) -> Outcome:
    """The same command in a process of its own; before: what that process does first."""
    line = [sys.executable, "-m", "fmtool", *arguments]
    found = subprocess.run(line, preexec_fn=before, capture_output=True, text=True, timeout=120, **more)  # type: ignore[call-overload]
    return Outcome(found.returncode, found.stdout, found.stderr)


def refused(found: Outcome, target: Path, old: bytes) -> None:
    """One line, the target as it was, and nothing beside it but the side file."""
    assert found.code == 1 and "Traceback" not in found.err, found
    lines = [line for line in found.err.splitlines() if not line.startswith("fmtool: warning: ")]
    assert len(lines) == 1 and lines[0].startswith("fmtool: error: ") and "can't be written" in lines[0], found.err
    assert target.read_bytes() == old
    left = {path.name for path in target.parent.iterdir()} - {target.name}
    assert left <= {f".{target.name}.resume", f".{target.name}.resume-journal"}, left


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", LINES)
def test_full_disk_in_the_middle_of_any_write(command: str, run: Run, files: Path, tmp_path: Path) -> None:
    name = "picture.png" if command == "plot" else "result"
    (tmp_path / "good").mkdir()
    good, target = tmp_path / "good" / name, tmp_path / "full" / name
    assert run(*words(LINES[command], files, good)).code == 0
    target.parent.mkdir()
    target.write_bytes(b"old")
    for size in (100, good.stat().st_size // 2, good.stat().st_size - 1):
        err = io.StringIO()
        with (
            largest_file(size),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):  # pytest's own is a file too
            warnings.simplefilter("ignore", FmtoolWarning)
            code = run_command(words(LINES[command], files, target))
        refused(Outcome(code, "", err.getvalue()), target, b"old")
    assert run(*words(LINES[command], files, target)).code == 0
    assert target.read_bytes() == good.read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_full_disk_in_a_process_of_its_own(files: Path, tmp_path: Path) -> None:
    target = tmp_path / "masks"
    target.write_bytes(b"old")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))  # noqa: E731
    refused(process(words(LINES["fit-masks"], files, target), limit), target, b"old")


def test_a_small_disk(run: Run, files: Path, tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    try:
        (disk / "filler").write_bytes(bytes(48_000))
        found = run(*words(LINES["fit-masks"], files, disk / "masks"))
        assert found.code == 1 and ("No space left" in found.err or "disk is full" in found.err), found
        assert not (disk / "masks").exists()
        (disk / "filler").unlink()
        assert run(*words(LINES["fit-masks"], files, disk / "masks")).code == 0
        assert os.listdir(disk) == ["masks"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("command", [name for name in LINES if name != "plot"])
def test_full_device(command: str, run: Run, files: Path) -> None:
    found = run(*words(LINES[command], files, "/dev/full"))
    assert found.code == 1 and found.out == ""
    assert found.err.splitlines()[-1] == "fmtool: error: /dev/full: can't be written: No space left on device"


@pytest.mark.parametrize("line", ["inspect IN/fmn", "merge IN/fmn -o -", "inspect IN/fmn --format json"])
def test_standard_output_on_a_full_disk(line: str, files: Path) -> None:
    arguments = words(line, files, "")[:-2]
    with open("/dev/full", "wb") as full:
        found = subprocess.run(
            [sys.executable, "-m", "fmtool", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert found.returncode == 1
    assert found.stderr.splitlines() == [
        "fmtool: error: standard output can't be written: No space left on device"
    ] or (found.stderr.splitlines() == ["fmtool: error: -: can't be written: No space left on device"])


SOMEBODY = """
import os, sys
from fmtool.__main__ import run
line, target = sys.argv[1:-1], sys.argv[-1]
assert run([*line, "-o", "/dev/null"]) == 0  # loads all that nobody may read
if not os.geteuid():
    os.setgid(65534), os.setuid(65534)
sys.exit(run([*line, "-o", target]))
"""


@pytest.mark.parametrize("reached", [True, False])
def test_folder_of_somebody_else(reached: bool, files: Path) -> None:
    """One that can be entered and not written to, and one that can't be entered."""
    with tempfile.TemporaryDirectory() as folder:
        inner, target = Path(folder) / "inner", Path(folder) / "inner" / "result"
        inner.mkdir(mode=0o555)
        os.chmod(folder, 0o755 if reached else 0)
        try:
            line = [sys.executable, "-c", SOMEBODY, *words(LINES["merge"], files, target)[:-2], str(target)]
            found = subprocess.run(line, capture_output=True, text=True, timeout=60)
        finally:
            os.chmod(folder, 0o755)
        expected = "can't be written: Permission denied" if reached else "the folder 'inner' does not exist"
        assert found.returncode == 1 and found.stderr == f"fmtool: error: {target}: {expected}\n", found
        assert list(inner.iterdir()) == []


@pytest.mark.parametrize("how", ["truncated", "overwritten", "replaced"])
def test_input_that_changes_while_it_is_read(how: str, files: Path, tmp_path: Path) -> None:
    """A file that is renamed into its place leaves the old one's content; one that is changed in place is an error."""
    path = tmp_path / "attack"
    content = (files / "fmn.safetensors").read_bytes()
    path.write_bytes(content)
    found = row_files.read(str(path), "attack")
    before = found.rows("images")[:5]
    os.utime(path, ns=(0, 0)) if how == "overwritten" else None  # as if it were written later than it was opened
    if how == "replaced":
        (tmp_path / "other").write_bytes(bytes(len(content)))
        os.replace(tmp_path / "other", path)
        assert torch.equal(found.rows("images")[:5], before)
        return
    with open(path, "r+b") as file:
        file.seek(artifacts.header_end(content))
        file.truncate() if how == "truncated" else file.write(bytes(64))
    with pytest.raises(ArtifactError, match=r"attack: (was changed|ends before its last tensor)"):
        found.rows("images")[:5]


def test_attack_file_that_changes_while_masks_are_fitted(
    files: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "fmn", []
    shutil.copy(files / "fmn.safetensors", path)
    read = row_files.FileRows.__getitem__

    def slow(self: row_files.FileRows, rows: object) -> torch.Tensor:
        calls.append(rows)
        if len(calls) == 20:
            with open(path, "ab") as file:
                file.write(b"more")
        return read(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(row_files.FileRows, "__getitem__", slow)
    line = (
        f"fit-masks {files / 'model.safetensors'} {path} --for essential --batch-size 8 {FEW} -o {tmp_path / 'masks'}"
    )
    found = run(*line.split())
    assert found.code == 1 and found.err.splitlines()[-1] == f"fmtool: error: {path}: was changed while it was read"
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("line", ["inspect - --history", "merge - -o -"])
@pytest.mark.parametrize("content", [b"", b"nothing of ours", b"\xff" * 100])
def test_standard_input_that_is_no_file_of_ours(line: str, content: bytes) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "fmtool", *line.split()], input=content, capture_output=True, timeout=60
    )
    assert found.returncode == 1 and found.stdout == b""
    expected = b"standard input is empty" if not content else b"standard input: not a whole safetensors file"
    assert found.stderr.startswith(b"fmtool: error: " + expected) and found.stderr.count(b"\n") == 1


@pytest.mark.parametrize("line", ["inspect IN/fmn", "inspect IN/fmn --format json", "merge IN/fmn -o -"])
def test_reader_that_goes_is_no_error(line: str, files: Path) -> None:
    """As with `| head`: exit code 1 and no text."""
    read, write = os.pipe()
    os.close(read)
    arguments = words(line, files, "")[:-2]
    found = subprocess.run(
        [sys.executable, "-m", "fmtool", *arguments], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert found.returncode == 1 and found.stderr == ""


# Memory and devices ---------------------------------------------------------------------------------------------------

FACTORY = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        if len(images) > LIMIT and (images.requires_grad or not GRADIENTS):
            raise ERROR
        return self.linear(images.flatten(1))

def make():
    return Small()
"""
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
        text = FACTORY.replace("LIMIT", str(limit)).replace("ERROR", ERRORS[error])
        text = text.replace("GRADIENTS", str("gradients" in error))
        (tmp_path / f"{name}.py").write_text(
            text.replace("> 0 and", "> 2 and")
        )  # the check at the start is of two images
        found = run("import-model", f"{name}:make", "--input-shape", "1,8,8", "-o", tmp_path / f"{name}.safetensors")
        assert found.code == 0, found.err
        return name

    return call


STAGES = {
    "defend": "defend {0}.safetensors IN/fmn IN/plain --allow-other-model --factory {0}:make",
    "check-masks": "check-masks {0}.safetensors IN/fmn IN/essential --allow-other-model --factory {0}:make --draws 1",
    "attack": "attack {0}.safetensors --data digits --factory {0}:make --attack pgd --attack-option steps=2",
    "fit-masks": f"fit-masks {{0}}.safetensors --data digits --for essential --factory {{0}}:make {FEW}",
    "class-masks": f"class-masks {{0}}.safetensors --data digits --factory {{0}}:make {FEW}",
}


@pytest.mark.parametrize("error", ["memory of a GPU", "memory"])
@pytest.mark.parametrize("command", STAGES)
def test_out_of_memory_halves_the_batch(
    command: str, error: str, made: Callable[[int, str], str], run: Run, files: Path, tmp_path: Path
) -> None:
    line = STAGES[command].format(made(100, error))
    target = ["-o", str(tmp_path / "result")] if command != "check-masks" else []
    found = run(*words(line, files, "")[:-2], *target)
    assert found.code == 0, found.err
    lines = [text for text in found.err.splitlines() if "out of memory" in text]
    assert [text.split(":")[2].strip() for text in lines] == [
        "out of memory with 256 images in a batch", "out of memory with 128 images in a batch",
    ]  # fmt: skip
    assert "as --batch-size 64" in lines[1] and "bytes differ" in lines[1]
    again = run(*words(line, files, "")[:-2], "--batch-size", 64, *(["-o", str(tmp_path / "again")] if target else []))
    assert again.code == 0 and "out of memory" not in again.err and again.out == found.out
    if target:
        assert (tmp_path / "result").read_bytes() == (tmp_path / "again").read_bytes()
        assert fmtool.read(str(tmp_path / "result")).history[-1]["options"]["batch_size"] == 64


@pytest.mark.parametrize("error", [error for error in ERRORS if "gradients" not in error])
def test_device_that_fails_is_an_error_and_no_run_elsewhere(
    error: str, made: Callable[[int, str], str], run: Run, files: Path, tmp_path: Path
) -> None:
    line = STAGES["defend"].format(made(0 if "memory" in error else 100, error))
    if "memory" in error:  # not even one image: the first passes of two images are let through
        line += " --batch-size 4"
        found = run(*words(line, files, tmp_path / "result"))
        assert found.code == 0 and found.err.count("out of memory") == 1
        return
    found = run(*words(line, files, tmp_path / "result"))
    assert found.code == 1 and found.out == "" and not (tmp_path / "result").exists()
    assert found.err.startswith("fmtool: error: the GPU failed, and nothing was computed elsewhere: CUDA error: ")
    assert found.err.count("\n") == 1


def test_memory_that_is_too_little_for_one_image(files: Path) -> None:
    tried = []

    @faults.halving
    def stage(model: fmtool.Artifact, *, batch: int | None = None, device: str = "auto") -> None:
        tried.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.warns(FmtoolWarning, match="out of memory"), pytest.raises(ModelError, match=r"out of memory \(CUDA"):
        stage(fmtool.read(str(files / "model.safetensors")), batch=5, device="cpu")
    assert tried == [5, 2, 1]


def test_memory_that_is_too_little_when_something_is_saved(files: Path, tmp_path: Path) -> None:
    """Another batch would lose it: an error, and what is saved stays for when there is memory again."""
    target = str(tmp_path / "x")

    @faults.halving
    def stage(model: fmtool.Artifact, *, output: str, batch: int, restart: bool = False) -> None:
        with side_files.resuming(output, {"batch": batch}) as side:
            side.put(0, b"a mask")
            raise torch.OutOfMemoryError("CUDA out of memory.")

    said = r"out of memory \(CUDA.*\): what is done is saved, and the same command goes on when there is more; with a smaller"
    with pytest.raises(ModelError, match=said):
        stage(fmtool.read(str(files / "model.safetensors")), output=target, batch=4)
    with side_files.resuming(target, {"batch": 4}) as side:
        assert side.row(0) == b"a mask"


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
    monkeypatch.setattr(side_files, "SECONDS_BETWEEN", 0.0)
    line = STAGES[command].format(made(100, "memory for gradients"))
    found = run(*words(line, files, tmp_path / "result"))
    assert found.code == 0 and "anew" not in found.err, found.err
    assert "out of memory with 256 images" in found.err and "out of memory with 128 images" in found.err
    again = run(*words(line, files, tmp_path / "again"), "--batch-size", 64)
    assert again.code == 0 and (tmp_path / "result").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_batch_that_was_halved_is_that_of_the_same_command(
    made: Callable[[int, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, it goes on with it; another command doesn't."""
    monkeypatch.setattr(side_files, "SECONDS_BETWEEN", 0.0)
    name, target = made(100, "memory"), str(tmp_path / "target")
    model, data = fmtool.read(f"{name}.safetensors"), fmtool.load_data("digits:all")
    few: dict[str, object] = {"name": "pgd", "factory": f"{name}:make", "options": {"steps": 2}}

    def stop(label: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    def attack(**more: object) -> list[str]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with contextlib.suppress(KeyboardInterrupt):
                fmtool.attack(model, data, output=target, **{**few, **more})  # type: ignore[arg-type]
        lines = [str(one.message).partition(":")[0].partition(" (")[0] for one in said]
        return [line for line in lines if "pgd fails on" not in line]

    halved = [f"out of memory with {batch} images in a batch" for batch in (256, 128)]
    assert attack(progress=stop) == [*halved, "what is done is saved"]
    on = "goes on with 64 images in a batch, which memory was enough for"
    assert attack(progress=stop) == [on, "what is done is saved"]
    assert attack() == [on]
    whole = fmtool.attack(model, data, batch=64, **few)  # type: ignore[arg-type]
    assert fmtool.read(target).digest == whole.digest
    assert attack(progress=stop, seed=1) == [*halved, "what is done is saved"]
    assert attack() == [f"{target}", *halved]  # begins anew


@pytest.mark.parametrize("command", ["fit-masks IN/model IN/fmn --for essential", "class-masks IN/model IN/fmn"])
def test_lambda_that_float32_does_not_hold(command: str, run: Run, files: Path, tmp_path: Path) -> None:
    found = run(*words(f"{command} --lambda 1e305", files, tmp_path / "masks"))
    expected = "fmtool: error: --lambda 1e+305: expected a number of at least 0 and at most 3e38\n"
    assert (found.code, found.err) == (1, expected)
    assert list(tmp_path.iterdir()) == []


def test_bugs_stay_bugs() -> None:
    with pytest.raises(RuntimeError, match="shapes"), faults.device_errors():
        raise RuntimeError("shapes don't match")


def test_gpu_that_is_not_there(run: Run, files: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for command in ("attack", "fit-masks", "class-masks", "defend", "train-model", "correlate"):
        found = run(*words(LINES[command], files, tmp_path / "result"), "--device", "cuda")
        assert found.code == 1 and found.err.startswith("fmtool: error: --device cuda: expected auto, cpu, or a GPU")
        assert list(tmp_path.iterdir()) == []


def test_two_readers_at_once_see_one_file(files: Path) -> None:
    """A reader's check of the file's stamp does not trouble another reader."""
    found, seen = row_files.read(str(files / "fmn.safetensors"), "attack"), []
    threads = [threading.Thread(target=lambda: seen.append(found["images"].sum())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({float(one) for one in seen}) == 1
