"""Where a system has no locks and no SIGHUP, fmtool works and says that there is no lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys, signal
sys.modules["fcntl"] = sys.modules["resource"] = None
del signal.SIGHUP
import os
del os.fork
import fmtool
from fmtool.runtime.resume_file import _locked
from pathlib import Path
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with _locked(Path("x.part"), "x"):
        pass
print(*(str(one.message) for one in caught))
"""


@pytest.mark.processes
def test_a_system_without_locks_gets_a_line(tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "x: there are no locks here" in found.stdout
