"""Compiled code, kept from one run to the next in a folder of its own for each graph.

torch keeps what it compiles in the folder that an environment variable names and finds it again by the graph, its shapes and its
own version. It trusts the files there. So each graph's folder is named by all that the code depends on, the machine included, as
a home folder may be shared by several; and a list of digests tells whether its files are still whole. Files that are not, or
belong to another user, are compiled anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule

from fmtool.artifacts.output import write_bytes
from fmtool.errors import ArtifactError
from fmtool.runtime.cache import cache_folder

FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # the variable that torch reads
DIGESTS = "digests.json"
UNCHECKED = {".lock", ".load_ok"}  # empty files that torch leaves when it loads the others


@contextmanager
def kept(graph: GraphModule, inputs: Sequence[Tensor]) -> Iterator[None]:
    """Whatever is compiled in the body, for `graph` at the shapes of `inputs`, is kept, or found again.

    Where the cache can't be written, nothing is kept.
    """
    folder = cache_folder() / "compiled" / _key(graph, inputs)
    try:
        whole = _is_whole(folder)
        used = folder if whole else _fresh_for(folder)
    except OSError:
        yield
        return
    try:
        with _torch_keeps_in(used):
            yield
        with suppress(OSError, ArtifactError):  # the disk is full, or another process has just kept the same
            _note(used)  # also of a folder that was whole: torch may add what it had to derive anew
            if not whole:
                used.rename(folder)
    finally:
        if not whole:
            shutil.rmtree(used, ignore_errors=True)


@contextmanager
def _torch_keeps_in(folder: Path) -> Iterator[None]:
    before = os.environ.get(FOLDER)
    os.environ[FOLDER] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOLDER]
        else:
            os.environ[FOLDER] = before


def _key(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """Of all that the code for these inputs depends on: the graph with its weights' shapes, versions, compiler, processor."""
    from torch._inductor.cpp_builder import get_compiler_version_info, get_cpp_compiler

    attributes = [getattr(graph, str(node.target), None) for node in graph.graph.nodes if node.op == "get_attr"]
    tensors = [*inputs, *(value for value in attributes if isinstance(value, Tensor))]
    gpus = [torch.cuda.get_device_name(one.device) for one in inputs[:1] if one.is_cuda]
    parts = [
        graph.code,
        [(str(one.dtype), list(one.shape), list(one.stride()), str(one.device)) for one in tensors],
        [torch.__version__, str(torch.version.git_version), sys.version, *platform.uname()[::4]],
        [torch.backends.cpu.get_cpu_capability(), _processor(), *gpus],
        [torch.get_num_threads(), get_compiler_version_info(get_cpp_compiler())],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    """The processor's model and what it can do."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
    return platform.processor()


def _is_whole(folder: Path) -> bool:
    """Whether its files are those that were kept, and nobody else can have put them there: torch unpickles and runs them."""
    try:
        about = folder.parent.stat()
        if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
            return False
        return bool(json.loads((folder / DIGESTS).read_text()) == _digests(folder))
    except (OSError, ValueError):
        return False


def _note(folder: Path) -> None:
    """List the digests of its files, unless one that was listed has changed, which is then found."""
    listed = json.loads((folder / DIGESTS).read_text()) if (folder / DIGESTS).exists() else {}
    found = _digests(folder)
    if found != listed and found == {**found, **listed}:
        write_bytes(json.dumps(found).encode(), str(folder / DIGESTS))


def _fresh_for(folder: Path) -> Path:
    """A folder to compile in, beside the one to be replaced, which another process may be reading."""
    home = folder.parent
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=home))
        folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=".new-", dir=home))


def _digests(folder: Path) -> dict[str, str]:
    """The digest of each file that torch reads, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in UNCHECKED)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != DIGESTS
    }
