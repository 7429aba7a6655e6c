"""A mutation fuzzer: damaged and forged files of every kind, for every reader and every command that takes a file.

`python tests/fuzz.py --count 10000 --seed 0` prints the counts. Raw mutations change bytes: of our own files each must be
refused, by the digest or before it. Forged ones change what a file says and carry a digest that holds, so that they reach the
checks behind it: they end in one line or in a result. Foreign files (images, a matrix, checkpoints, a zip) have no digest.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from conftest import make_files
from fuzz_commands import COMMANDS, KINDS
from mutations import Bad, mutated
from PIL import Image
from safetensors.torch import load, save_file

import fmtool
from fmtool.__main__ import run_command
from fmtool.artifacts import files as artifacts
from fmtool.artifacts import streaming
from fmtool.errors import FmtoolError, FmtoolWarning

SECONDS = 60  # a file that takes longer hangs


MEMORY = 2**27  # bytes that one file of some 100 kB may cost beside torch and matplotlib; 31 MB were measured


SHARES = {True: 0.4, False: 0.05}  # of the files that the readers take, and refuse, that go to a command too


def seeds(folder: Path) -> dict[str, bytes]:
    """name -> content of the good files: those of the fixture `files`, and foreign ones that are added to the folder."""
    digits = fmtool.load_data("digits:test", limit=20)
    weights = load((folder / "model.safetensors").read_bytes())
    save_file({"images": digits.images, "labels": digits.labels}, folder / "images.safetensors")
    save_file({"matrix": torch.rand(30, 4, generator=torch.Generator().manual_seed(0))}, folder / "matrix.safetensors")
    save_file(weights, folder / "weights.safetensors")
    torch.save({"state_dict": weights}, folder / "weights.pth")
    torch.save({"state_dict": weights}, folder / "old.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for row, image in enumerate(digits.images[:6, 0]):
            content = io.BytesIO()
            Image.fromarray((image.numpy() * 255).astype(np.uint8)).save(
                content, format=("PNG", "JPEG", "TIFF")[row % 3]
            )
            archive.writestr(f"{row % 2}/{row}.{('png', 'jpg', 'tif')[row % 3]}", content.getvalue())
    return {
        **{name: (folder / f"{name}.safetensors").read_bytes() for name in KINDS},
        **{name: (folder / name).read_bytes() for name in COMMANDS if "." in name},
    }


@dataclass
class Counts:
    """What the files ended in; `problems` are what must not be."""

    files: int = 0
    refused: int = 0
    ran: int = 0
    commands: int = 0
    slowest: float = 0.0
    slowest_line: str = ""
    most_memory: int = 0
    problems: list[str] = field(default_factory=list)


class Fuzzer:
    """Feeds mutated files to the readers and to `inspect`, and some of them, `SHARES`, to another command too."""

    def __init__(self, files: Path, work: Path) -> None:
        self.files, self.work = files, work
        self.counts = Counts()

    def feed(self, bad: Bad, numbers: random.Random) -> None:
        suffix = Path(bad.name).suffix or ".safetensors"
        path, target = self.work / f"bad{suffix}", self.work / "target"
        path.write_bytes(bad.content)
        target.mkdir(exist_ok=True)
        self.counts.files += 1
        began, before = time.monotonic(), _reset_peak()
        line = "the readers"
        try:
            with _limited():
                taken = "." in bad.name or self.read(bad, str(path))
                commands = ["inspect BAD"] if bad.name in KINDS else []
                if numbers.random() < SHARES[taken]:
                    commands.append(numbers.choice(COMMANDS[bad.kind]))
                codes = []
                for line in commands:
                    codes.append(self._command(line, path, target, taken, bad))
            self.counts.refused += not any(code == 0 for code in codes) if commands else not taken
            self.counts.ran += any(code == 0 for code in codes) if commands else taken
        except Exception:
            self._problem(bad, line, "".join(traceback.format_exc().splitlines(keepends=True)[-14:]))
        took, grown = time.monotonic() - began, _peak() - before
        if took > self.counts.slowest:
            self.counts.slowest, self.counts.slowest_line = took, line
        self.counts.most_memory = max(self.counts.most_memory, grown)
        if grown > MEMORY:
            self._problem(bad, line, f"took {grown / 2**20:.0f} MB of memory")

    def read(self, bad: Bad, path: str) -> bool:
        """Whether the readers take the file; all of them say the same."""
        answers = []
        by_rows = () if bad.kind == "model" else (streaming.read,)  # weights are never read by rows
        for read in (artifacts.describe, artifacts.read, *by_rows):
            try:
                read(path, bad.kind)
                answers.append(True)
            except FmtoolError as error:
                assert str(error).strip() and "Traceback" not in str(error)
                answers.append(False)
        assert len(set(answers)) == 1, f"the readers don't agree: {answers}"
        assert not (bad.refused and answers[0]), "a changed file was taken"
        return answers[0]

    def _command(self, line: str, path: Path, target: Path, taken: bool, bad: Bad) -> int:
        words = [
            word.replace("BAD", str(path)).replace("OUT", str(target / "result"))
            if not word.startswith("IN/") else f"{self.files / word[3:]}.safetensors"
            for word in line.split()
        ]  # fmt: skip
        self.counts.commands += 1
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(words)
        lines = [one for one in err.getvalue().splitlines() if not one.startswith("fmtool: warning: ")]
        if code:
            assert code == 1 and len(lines) == 1 and lines[0].startswith("fmtool: error: "), (code, err.getvalue())
            assert not list(target.iterdir()), f"left {list(target.iterdir())}"
        else:
            assert not lines, err.getvalue()
            # which take foreign files too: one of ours whose key was changed is foreign
            foreign = "import-model" in line or any(f"{option} BAD" in line for option in ("--data", "--adversarial"))
            assert taken or foreign, "a command took what the readers refuse"
            for file in target.iterdir():
                file.unlink()
        return code

    def _problem(self, bad: Bad, line: str, what: str) -> None:
        number = len(self.counts.problems)
        kept = self.work / f"problem-{number}-{bad.name}"
        kept.write_bytes(bad.content)
        shutil.rmtree(self.work / "target", ignore_errors=True)
        self.counts.problems.append(f"{kept.name}: {line}\n{what}")


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """A file may neither hang nor warn in another way than by a line of ours."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("always", FmtoolWarning)
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> int:
    """Bytes in memory now; `_peak` counts from here, where the system lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(files: Path, work: Path, count: int, seed: int) -> Counts:
    """files: a folder of `make_files`; foreign files are added to it. work: an empty folder."""
    contents, fuzzer = seeds(files), Fuzzer(files, work)
    for number in range(count):
        numbers = random.Random(f"{seed} {number}")
        fuzzer.feed(mutated(contents, numbers), numbers)
    return fuzzer.counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="mutated files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder that keeps the files behind problems")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files, work = Path(folder) / "files", options.work or Path(folder) / "work"
        files.mkdir()
        work.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make_files(files)
        found = fuzz(files, work, options.count, options.seed)
    for problem in found.problems:
        print(problem)
    print(
        f"{found.files} files: {found.refused} refused, {found.ran} ran, {len(found.problems)} problems; "
        f"{found.commands} commands; slowest {found.slowest:.1f} s ({found.slowest_line}); "
        f"most memory for one file {found.most_memory / 2**20:.0f} MB; "
        f"{time.monotonic() - began:.0f} s in all"
    )
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
