"""Compiled code, kept from one run to the next in a folder of its own for each function.

`native_code` keeps a library there. torch keeps what it compiles in the folder that an environment variable names, and trusts the
files there. So each function's folder is named by all that the code depends on, the machine included, as a home folder may be
shared by several; and a list of digests tells whether its files are still whole. Files that are not, or belong to another user,
are compiled anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from fmtool.artifacts.output import write_bytes
from fmtool.errors import ArtifactError
from fmtool.runtime.cache import cache_folder, compiler_command

FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # the variable that torch reads
DIGESTS = "digests.json"
LEFT_FOR = 7 * 24 * 3600  # seconds after which a folder is one that a killed process left
FORMAT = 1  # of what is kept; another one is made anew
SETTINGS = ("TORCHINDUCTOR_", "AOT_INDUCTOR_")  # variables that torch's compiler reads begin so
UNCHECKED = {".lock", ".load_ok"}  # empty files that torch leaves when it loads the others


@contextmanager
def kept(operations: Sequence[str] | None) -> Iterator[Path]:
    """The folder of these operations, with what was compiled for them. What the body or torch adds there is kept, unless the body
    fails; without operations, or where the cache can't be written, nothing is.

    It is a copy, so that another process can replace what is kept meanwhile.
    """
    used = None
    if operations is not None:
        folder = cache_folder() / "compiled" / _key(operations)
        with suppress(OSError):
            used = _copy_of(folder)
    if used is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as lost, _torch_keeps_in(Path(lost)):
            yield Path(lost)
        return
    try:
        with _torch_keeps_in(used):
            yield used
        with suppress(OSError, ArtifactError):  # the disk is full, or another process has just kept the same
            if _note(used):
                _replace(folder, used)
    finally:
        shutil.rmtree(used, ignore_errors=True)


@contextmanager
def _torch_keeps_in(folder: Path) -> Iterator[None]:
    # torch would set the second one itself, for the rest of the process
    folders = {FOLDER: str(folder), "TRITON_CACHE_DIR": str(folder / "triton" / "0")}
    before = {name: os.environ.get(name) for name in folders}
    os.environ.update(folders)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _key(operations: Sequence[str]) -> str:
    """Of all that compiled code depends on: the operations with the layouts of their tensors, versions, compiler, processor."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)  # type: ignore[no-untyped-call]
    set_ = [(name, value) for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS) and name != FOLDER]
    parts = [
        [FORMAT, set_, torch.are_deterministic_algorithms_enabled()],
        operations,
        [torch.__version__, str(torch.version.git_version), sys.version, *platform.uname()[::4]],
        [torch.backends.cpu.get_cpu_capability(), _processor(), *map(torch.cuda.get_device_name, gpus)],
        [torch.get_num_threads(), _compiler()],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _compiler() -> list[tuple[str, int, int]]:
    """The command that torch would compile with: files, sizes, times of change. Asking torch or the compiler takes longer."""
    found = []
    for path in (os.path.realpath(shutil.which(word) or word) for word in compiler_command()):
        about = os.stat(path) if os.path.exists(path) else None
        found.append((path, about.st_size if about else 0, about.st_mtime_ns if about else 0))
    return found


def _processor() -> str:
    """The processor's model and what it can do."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
    return platform.processor()


def _copy_of(folder: Path) -> Path:
    """A new folder beside it with its files, if they are those that were kept; else an empty one."""
    home = folder.parent
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in (*home.glob(".new-*"), *home.glob(".old-*")):  # by processes that were killed
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_FOR:
                shutil.rmtree(left, ignore_errors=True)
    copy = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
    if _is_ours(home):
        with suppress(OSError):  # there is none, or another process replaces it
            shutil.copytree(folder, copy, dirs_exist_ok=True)
    if not _is_whole(copy):
        shutil.rmtree(copy)
        copy.mkdir(mode=0o700)
    return copy


def _is_ours(home: Path) -> bool:
    """Whether nobody else can have put files there: torch unpickles and runs them."""
    about = home.stat()
    return not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not about.st_mode & 0o022)


def _is_whole(folder: Path) -> bool:
    """Whether its files are those that were kept."""
    try:
        return bool(json.loads((folder / DIGESTS).read_text()) == _digests(folder))
    except (OSError, ValueError):
        return False


def _note(folder: Path) -> bool:
    """List the digests of its files, if torch has added some; not if one that was listed has changed."""
    listed = json.loads((folder / DIGESTS).read_text()) if (folder / DIGESTS).exists() else {}
    found = _digests(folder)
    added = found != listed and found == {**found, **listed}
    if added:
        write_bytes(json.dumps(found).encode(), str(folder / DIGESTS))
    return added


def _replace(folder: Path, by: Path) -> None:
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
        try:
            folder.rename(aside / folder.name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    by.rename(folder)


def _digests(folder: Path) -> dict[str, str]:
    """The digest of each file that torch reads, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in UNCHECKED)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != DIGESTS
    }
