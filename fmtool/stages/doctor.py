"""Checks of an installation: whatever keeps fmtool from working or slows it down. torch is imported in a separate process."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fmtool.runtime import cache
from fmtool.tables.table import Table

OK, NOTE, BROKEN = "ok", "note", "broken"
DISTRIBUTIONS = {
    "fmtool": "fourier-masks",
    "torch": "torch",
    "torchvision": "torchvision",
    "foolbox": "foolbox",
    "safetensors": "safetensors",
}
REINSTALL = "install both together, from the same index: pip install --upgrade --force-reinstall torch torchvision"
LEAST_MEMORY = 4.0  # GiB; importing torch and attacking CIFAR-10 images takes about one
DRIVER = Path("/proc/driver/nvidia/version")
SECONDS = 120  # for an import; 11 s were measured on a cold disk
TORCH_SCRIPT = """
import json, torch
facts = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": [], "error": ""}
try:
    torch.cuda.init()
    facts["devices"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
except Exception as error:
    facts["error"] = str(error).strip().splitlines()[0]
print(json.dumps(facts))
"""

# what is imported later, by a stage that needs it, as it is imported and as it is installed; the last three are extras
LIBRARIES = {
    "foolbox": "foolbox",
    "jinja2": "jinja2",
    "matplotlib.figure": "matplotlib",
    "numba": "numba",
    "numpy": "numpy",
    "PIL.Image": "pillow",
    "safetensors.torch": "safetensors",
    "scipy.stats": "scipy",
    "sklearn.datasets": "scikit-learn",
    "skdim": "scikit-dimension",
    "pyarrow.parquet": "pyarrow",
    "pywt": "PyWavelets",
    "timm": "timm",
}
EXTRAS = ("pyarrow.parquet", "pywt", "timm")
# says what it imports before it does, as an import may end the process
LIBRARIES_SCRIPT = """
import importlib, warnings
warnings.simplefilter("ignore")
for name in {needed}:
    print("importing", name, flush=True)
    try:
        importlib.import_module(name)
    except Exception as error:
        print("failed", (str(error).strip() or repr(error)).splitlines()[0], flush=True)
"""


@dataclass(frozen=True)
class Check:
    """A check: its name, state (OK, NOTE or BROKEN), result, and what to do about it."""

    name: str
    state: str
    result: str
    advice: str = ""


def versions() -> dict[str, str]:
    """The versions of fmtool's dependencies and of Python; "missing" for those not installed."""
    installed = {}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            installed[name] = version(distribution)
        except PackageNotFoundError:
            installed[name] = "missing"
    return {**installed, "Python": platform.python_version()}


def check_all() -> list[Check]:
    """All checks, in the order in which they depend on each other."""
    torch, facts = check_torch()
    rest = [check_torchvision(), check_gpu(facts), check_libraries()] if facts else []
    return [check_versions(), torch, *rest, check_cache(), check_compiler(), check_threads(), check_memory()]


def table(checks: list[Check]) -> Table:
    """One row per check."""
    rows = [[one.name, one.state, one.result, one.advice or None] for one in checks]
    return Table("Health", dict.fromkeys(("check", "state", "result", "what to do"), ""), rows)


def check_versions() -> Check:
    """Whether everything is installed."""
    installed = versions()
    text = ", ".join(f"{name} {number}" for name, number in installed.items())
    missing = [DISTRIBUTIONS[name] for name, number in installed.items() if number == "missing"]
    return (
        Check("versions", BROKEN, text, f"pip install {' '.join(missing)}") if missing else Check("versions", OK, text)
    )


def check_torch() -> tuple[Check, dict[str, Any]]:
    """Whether torch can be imported, and what it reports: version, cuda, devices, error; empty if it can't."""
    code, out, err = _python(TORCH_SCRIPT)
    if code:
        return Check("torch", BROKEN, f"can't be imported: {_last(err)}", REINSTALL), {}
    facts: dict[str, Any] = json.loads(out.splitlines()[-1])
    build = f"for CUDA {facts['cuda']}" if facts["cuda"] else "for the CPU"
    return Check("torch", OK, f"{facts['version']}, built {build}"), facts


def check_torchvision() -> Check:
    """Whether torchvision can be imported with this torch, for which it must have been built."""
    code, out, err = _python("import torchvision; print(torchvision.__version__)")
    if not code:
        return Check("torchvision", OK, f"{out.strip()}, fits torch")
    if "torchvision::nms does not exist" in err:
        return Check(
            "torchvision", BROKEN, "was built for another torch: operator torchvision::nms does not exist", REINSTALL
        )
    return Check("torchvision", BROKEN, f"can't be imported: {_last(err)}", REINSTALL)


def check_libraries() -> Check:
    """Whether the other libraries can be imported, extras only where they are installed."""
    needed = [name for name in LIBRARIES if name not in EXTRAS or find_spec(name.partition(".")[0])]
    code, out, err = _python(LIBRARIES_SCRIPT.format(needed=needed))
    name, failed = "", {}
    for word, _, rest in (line.partition(" ") for line in out.splitlines()):
        if word == "importing":
            name = LIBRARIES.get(rest, "")
        elif word == "failed":
            failed[name] = rest
    if code:
        failed[name] = _last(err)
    if not failed:
        return Check("libraries", OK, f"{len(needed)} of {len(needed)} can be imported")
    text = "; ".join(f"{name} can't be imported: {reason}" for name, reason in failed.items())
    return Check("libraries", BROKEN, text, f"pip install --upgrade --force-reinstall {' '.join(failed)}")


def check_gpu(torch: dict[str, Any]) -> Check:
    """Whether torch can use the GPU that the machine has."""
    if torch["devices"]:
        return Check("GPU", OK, ", ".join(torch["devices"]))
    driver = _driver()
    if not driver:
        return Check("GPU", OK, "none found: everything runs on the CPU")
    if torch["cuda"] is None:
        advice = "install a torch that is built for CUDA, and its torchvision, from the package index"
        return Check("GPU", BROKEN, f"{driver}, but this torch is built for the CPU", advice)
    advice = f"update the NVIDIA driver, or install a torch for an older CUDA than {torch['cuda']}"
    if "driver" not in torch["error"]:
        advice = "check that this user can open /dev/nvidia*, that CUDA_VISIBLE_DEVICES names a GPU, and that a container sees it"
    return Check("GPU", BROKEN, f"{driver}, but torch can't use it: {torch['error'] or 'it detects none'}", advice)


def check_cache() -> Check:
    """Whether data sets can be downloaded to their folder."""
    folder = cache.cache_folder()
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # Path.exists would raise
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Check("cache", OK, f"{folder}{'' if there == folder else ' (created when needed)'}")
    reason = f"{there} can't be written" if there.is_dir() else f"{there} is not a folder"
    return Check("cache", BROKEN, f"{folder}: {reason}", "name another folder: export FMTOOL_CACHE=FOLDER")


def check_compiler() -> Check:
    """Whether torch.compile has a C++ compiler for the CPU."""
    asked = os.environ.get("CXX")
    words = cache.compiler_command()
    if words and (found := shutil.which(words[0])):
        return Check("C++ compiler", OK, shlex.join([found, *words[1:]]))
    other = next(filter(shutil.which, ("g++", "clang++")), None)
    advice = ("unset CXX" if asked else f"export CXX={other}") if other else "install g++, or set CXX"
    none = "none" if not asked else f"CXX={asked} is none"
    return Check("C++ compiler", NOTE, f"{none}: --compile does nothing on the CPU, and long fits are slower", advice)


def check_threads() -> Check:
    """How many threads torch will use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS")
    text = f"{cores} processors" + (f", OMP_NUM_THREADS={asked}" if asked else "")
    few = cores == 1 or asked == "1"
    return Check("threads", NOTE if few else OK, text, "networks run on one thread" if few else "")


def check_memory() -> Check:
    """How much memory the machine has."""
    if not hasattr(os, "sysconf"):  # Windows
        return Check("memory", NOTE, "unknown here", "use a smaller --batch-size if it is little")
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    few = size < LEAST_MEMORY
    return Check("memory", NOTE if few else OK, f"{size:.1f} GiB", "use a smaller --batch-size" if few else "")


def _python(script: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a script in a new process of this Python, which imports nothing from the current folder."""
    try:
        done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        begun = error.stdout or b""  # bytes, whatever `text` says
        return 1, begun.decode(errors="replace") if isinstance(begun, bytes) else begun, f"no answer in {SECONDS} s"
    return done.returncode, done.stdout, done.stderr


def _driver() -> str:
    """Evidence of an NVIDIA GPU; empty if there is none."""
    if DRIVER.exists():
        return f"{DRIVER} reports an NVIDIA driver"
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    done = subprocess.run([tool, "-L"], capture_output=True, text=True)
    found = [line.partition(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return "" if done.returncode or not found else found[0]


def _last(text: str) -> str:
    return (text.strip() or "it ended without a message").splitlines()[-1]
