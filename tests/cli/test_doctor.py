"""fmtool doctor: each fault is found on a stand-in, and what to do is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from fmtool.stages import doctor

FAKE_TORCH = """
__version__ = "9.9"
class version: cuda = {cuda!r}
class cuda:
    def init(): {init}
    def device_count(): return 1
    def get_device_name(number): return "Fake H100"
"""


def fake(folder: Path, name: str, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of this name before the real one, for processes that are started."""
    (folder / f"{name}.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def rows(run: Run, code: int) -> dict[str, dict[str, Any]]:
    outcome = run("doctor", "--format", "json")
    assert outcome.code == code, outcome.out
    return {row["check"]: row for row in json.loads(outcome.out)["rows"]}


@pytest.fixture
def light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch and a torchvision that are imported at once; no GPU, one library, and a cache folder that is there."""
    fake(
        tmp_path,
        "torch",
        FAKE_TORCH.format(cuda="13.0", init="raise RuntimeError('Found no NVIDIA driver on your system')"),
        monkeypatch,
    )
    fake(tmp_path, "torchvision", "__version__ = '9.8'", monkeypatch)
    monkeypatch.setattr(doctor, "LIBRARIES", {"json": "json"})  # as others import torch
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "no-driver")
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path / "cache"))
    for name in ("CXX", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "g++").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


@pytest.mark.processes
def test_a_sound_installation_exits_with_0(run: Run, light: Path) -> None:
    found = rows(run, 0)
    names = ["versions", "torch", "torchvision", "GPU", "libraries", "cache", "C++ compiler", "threads", "memory"]
    assert list(found) == names
    assert {row["state"] for name, row in found.items() if name not in ("threads", "memory")} == {"ok"}
    assert found["GPU"]["result"].startswith("none found") and "9.9" in found["torch"]["result"]
    assert "torchvision" in run("doctor").out


@pytest.mark.processes
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "built for another torch"),
        ("raise ImportError('libc10.so is missing')", "ImportError: libc10.so is missing"),
    ],
)
def test_a_torchvision_that_does_not_fit(
    content: str, said: str, run: Run, light: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(light, "torchvision", content, monkeypatch)
    row = rows(run, 1)["torchvision"]
    assert row["state"] == "broken" and said in row["result"] and "pip install" in row["what to do"]


@pytest.mark.processes
def test_a_torch_that_can_not_be_imported(run: Run, light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(light, "torch", "raise OSError('libcudart.so.12: cannot open')", monkeypatch)
    found = rows(run, 1)
    assert "libcudart.so.12" in found["torch"]["result"] and "GPU" not in found


@pytest.mark.processes
@pytest.mark.parametrize(
    ("cuda", "init", "said", "advice"),
    [
        (None, "raise AssertionError('Torch not compiled with CUDA enabled')", "built for the CPU", "built for CUDA"),
        (
            "13.0",
            "raise RuntimeError('The NVIDIA driver on your system is too old')",
            "too old",
            "update the NVIDIA driver",
        ),
        ("13.0", "raise RuntimeError('No CUDA GPUs are available')", "No CUDA GPUs", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_torch_can_not_use(
    cuda: str | None, init: str, said: str, advice: str, run: Run, light: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(light, "torch", FAKE_TORCH.format(cuda=cuda, init=init), monkeypatch)
    assert rows(run, 0)["GPU"]["state"] == "ok"  # nothing shows that there is one
    tool = light / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    row = rows(run, 1)["GPU"]
    assert row["state"] == "broken" and "GPU 0: NVIDIA H100 80GB HBM3, but" in row["result"]
    assert said in row["result"] and advice in row["what to do"]
    tool.unlink()
    doctor.DRIVER.write_text("NVRM version")
    assert rows(run, 1)["GPU"]["state"] == "broken"


@pytest.mark.processes
def test_a_gpu_that_torch_can_use(run: Run, light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(light, "torch", FAKE_TORCH.format(cuda="13.0", init="pass"), monkeypatch)
    assert rows(run, 0)["GPU"]["result"] == "Fake H100"


@pytest.mark.processes
def test_a_cache_folder_that_can_not_be_written(run: Run, light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not yet made below a folder that is read-only; root may write anywhere, so that the answer is a stand-in's."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: path != light and allowed(path, mode, **more))
    row = rows(run, 1)["cache"]
    assert (
        row["state"] == "broken"
        and f"{light} can't be written" in row["result"]
        and "FMTOOL_CACHE" in row["what to do"]
    )
    monkeypatch.undo()
    monkeypatch.setenv("FMTOOL_CACHE", str(light / "torch.py" / "cache"))
    assert doctor.check_cache().state == "broken" and "is not a folder" in doctor.check_cache().result


@pytest.mark.processes
def test_no_compiler_one_thread_and_little_memory_are_notes(
    run: Run, light: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (light / "bin" / "g++").unlink()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 1e6)
    found = rows(run, 0)
    assert [found[name]["state"] for name in ("C++ compiler", "threads", "memory")] == ["note"] * 3
    assert "--compile" in found["C++ compiler"]["result"] and "OMP_NUM_THREADS=1" in found["threads"]["result"]
