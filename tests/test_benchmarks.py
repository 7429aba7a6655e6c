"""The benchmarks can run, and the authors' algorithms that they time are what fmtool's numbers are compared with."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import pytest
import torch
from authors import two_nn

from fmtool.correlation.numerics.distances import Keep
from fmtool.correlation.numerics.neighbours import side
from fmtool.correlation.numerics.two_nn import two_nn as ours

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "benchmarks"


def test_the_authors_dimension_is_fmtools_but_for_the_rounding_of_distances() -> None:
    data = torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
    expected = ours(side(data.double(), Keep.MATRIX).two_nearest, "x").value
    assert two_nn(data) == pytest.approx(expected, rel=1e-3)


BENCHMARKS = sorted(path for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_can_be_imported(path: Path) -> None:
    """Its names and those that it takes from fmtool exist; CI has no quiet machine to run it on."""
    module = importlib.import_module(path.stem)
    assert module.__doc__ and (hasattr(module, "main") or path.stem in ("authors", "common"))


@pytest.mark.processes
def test_the_scripts_run_every_benchmark() -> None:
    scripts = "".join((FOLDER / f"{name}.sh").read_text() for name in ("run", "gpu"))
    for path in BENCHMARKS:
        assert path.name in scripts or path.stem in ("authors", "common")
    for script in ("run", "gpu"):
        subprocess.run(["bash", "-n", FOLDER / f"{script}.sh"], check=True)
