"""Checks of an installation, each on a stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from fmtool.stages import doctor


@pytest.mark.processes
def test_this_installation_is_well(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real torch and torchvision fit."""
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    tried = (doctor.check_torch()[0], doctor.check_torchvision(), doctor.check_libraries(), doctor.check_cache())
    checks = {one.name: one for one in tried}
    assert {one.state for one in checks.values()} == {"ok"}, checks


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="drops rights, which only root can")
def test_a_cache_folder_that_this_user_may_not_write(tmp_path: Path) -> None:
    """For real, in a process without root's rights."""
    code = (
        "import os, sys; from fmtool.stages import doctor\n"
        "os.setegid(65534); os.seteuid(65534); real = os.access\n"
        "os.access = lambda path, mode: real(path, mode, effective_ids=True)\n"  # it asks for the real user otherwise
        "print(doctor.check_cache().state)"
    )
    (tmp_path / "cache").mkdir(mode=0o755)
    environment = {**os.environ, "FMTOOL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "broken\n", done.stderr


@pytest.mark.processes
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.DISTRIBUTIONS, "foolbox", "no-such-distribution")
    check = doctor.check_versions()
    assert (
        check.state == "broken"
        and "foolbox missing" in check.result
        and check.advice == "pip install no-such-distribution"
    )


@pytest.mark.parametrize(
    ("facts", "driver", "state", "said"),
    [
        ({"devices": ["H100", "H100"], "cuda": "13.0", "error": ""}, "", "ok", "H100, H100"),
        ({"devices": [], "cuda": "13.0", "error": "no driver"}, "", "ok", "none found: everything runs on the CPU"),
        ({"devices": [], "cuda": None, "error": ""}, "GPU 0", "broken", "GPU 0, but this torch is built for the CPU"),
        ({"devices": [], "cuda": "13.0", "error": "driver too old"}, "GPU 0", "broken", "can't use it: driver too old"),
        ({"devices": [], "cuda": "13.0", "error": ""}, "GPU 0", "broken", "can't use it: it detects none"),
    ],
)
def test_what_torch_and_the_driver_say_of_a_gpu(
    facts: dict[str, Any], driver: str, state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_driver", lambda: driver)
    found = doctor.check_gpu(facts)
    assert found.state == state and said in found.result and bool(found.advice) == (state == "broken")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("said", "code", "found"),
    [("GPU 0: H100 (UUID: x)", 0, "GPU 0: H100"), ("No devices were found", 6, ""), ("", 9, "")],
)
def test_a_driver_without_a_gpu_is_none(
    said: str, code: int, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{said}'\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "missing")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert doctor._driver() == found


@pytest.mark.processes
def test_nothing_of_the_current_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('a script of the user')")
    monkeypatch.chdir(tmp_path)
    assert doctor._python("import random; print(random.__name__)")[:2] == (0, "random\n")


@pytest.mark.processes
def test_a_library_that_fails_or_ends_the_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With packages that stand for them, in a process that takes these first."""
    monkeypatch.setattr(
        doctor, "LIBRARIES", {"json": "json", "needs_less": "needs-less", "ends": "ends-all", "gone": "gone"}
    )
    monkeypatch.setattr(doctor, "EXTRAS", ("gone",))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "needs_less.py").write_text("print('hello'); raise ImportError('needs NumPy 2.2 or less\\nand more')")
    (tmp_path / "ends.py").write_text("raise ImportError()")
    check = doctor.check_libraries()
    said = "needs-less can't be imported: needs NumPy 2.2 or less; ends-all can't be imported: ImportError()"
    assert (check.state, check.result) == ("broken", said)
    assert check.advice == "pip install --upgrade --force-reinstall needs-less ends-all"
    (tmp_path / "ends.py").write_text("import os; os.abort()")
    assert doctor.check_libraries().result.endswith("; ends-all can't be imported: it ended without a message")
    monkeypatch.setattr(doctor, "LIBRARIES", {"json": "json", "gone": "gone"})
    assert (doctor.check_libraries().state, doctor.check_libraries().result) == ("ok", "1 of 1 can be imported")


def test_a_script_that_hangs_or_fails_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    for out in ((1, "", "no answer in 120 s"), (1, "", "Traceback\nImportError: libc10.so"), (-11, "", "")):
        monkeypatch.setattr(doctor, "_python", lambda script, out=out: out)
        check, facts = doctor.check_torch()
        last = (out[2] or "it ended without a message").splitlines()[-1]
        assert (check.state, facts) == ("broken", {}) and check.result == f"can't be imported: {last}"
        assert doctor.check_torchvision().result == f"can't be imported: {last}"
    said = 'noise\n{"version": "9.9", "cuda": null, "devices": [], "error": ""}'
    monkeypatch.setattr(doctor, "_python", lambda script: (0, said, ""))
    check, facts = doctor.check_torch()
    assert check.result == "9.9, built for the CPU" and facts["devices"] == []


@pytest.mark.processes
def test_a_library_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 2)
    code, out, err = doctor._python("import time; print('importing numpy', flush=True); time.sleep(60)")
    assert (code, out, err) == (1, "importing numpy\n", "no answer in 2 s")


def test_compiler_threads_and_memory_are_notes_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert (doctor.check_compiler().state, doctor.check_compiler().advice) == ("note", "install g++, or set CXX")
    (tmp_path / "clang++").touch(0o755)  # which torch doesn't try of itself
    monkeypatch.setattr(sys, "platform", "linux")
    assert (doctor.check_compiler().state, doctor.check_compiler().advice) == ("note", "export CXX=clang++")
    monkeypatch.setenv("CXX", "nosuch")
    assert (doctor.check_compiler().state, doctor.check_compiler().advice) == ("note", "unset CXX")
    monkeypatch.setenv("CXX", "clang++ -O1")
    assert doctor.check_compiler().result == f"{tmp_path}/clang++ -O1"
    compiler = tmp_path / "mycxx"
    compiler.touch(0o755)
    monkeypatch.setenv("CXX", "mycxx")
    assert (doctor.check_compiler().state, doctor.check_compiler().result) == ("ok", str(compiler))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (doctor.check_threads().state, doctor.check_threads().result) == ("ok", "3 processors")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor.check_threads().state == "note" and doctor.check_threads().result == "3 processors, OMP_NUM_THREADS=1"
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20 - 1}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert (doctor.check_memory().state, doctor.check_memory().result) == ("note", "4.0 GiB")


def test_the_table_has_a_row_for_each_check() -> None:
    table = doctor.table(
        [doctor.Check("GPU", "ok", "H100"), doctor.Check("torch", "broken", "none", "pip install torch")]
    )
    assert table.title == "Health" and list(table.columns) == ["check", "state", "result", "what to do"]
    assert table.rows == [["GPU", "ok", "H100", None], ["torch", "broken", "none", "pip install torch"]]
