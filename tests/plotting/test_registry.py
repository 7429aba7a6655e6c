"""The table of figures: each has its function, and fits the files that it says it takes."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch

from fmtool.artifacts.format import Artifact
from fmtool.plotting.registry import FIGURES

CURVES = {"curves": {name: [1] for name in ("class_subsets", "subsample", "trim")}}
COSINES = {"cosine_pairs": torch.zeros(1)}


def files(kinds: str) -> list[Artifact]:
    """Files of these kinds; `curves` and `cosines` are correlations that hold such things."""
    made = {"curves": Artifact("correlation", CURVES, {}, []), "cosines": Artifact("correlation", {}, COSINES, [])}
    return [made.get(kind) or Artifact(kind, {}, {}, []) for kind in kinds.split()]


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_a_function_of_files(name: str) -> None:
    module, _, function = FIGURES[name].function.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(f"fmtool.plotting.{module}"), function)).parameters
    assert list(parameters) == (["files", "count", "like"] if FIGURES[name].images else ["files"])
    assert FIGURES[name].takes and FIGURES[name].text


@pytest.mark.parametrize(
    ("kinds", "figures"),
    [
        ("masks", "masks mean-mask radial"),
        ("masks masks", "masks mean-mask radial"),
        ("attack", "perturbation radial"),
        ("attack masks masks", "filtered radial"),
        ("class-masks", "class-masks mean-mask"),
        ("class-masks masks", "mean-mask"),
        ("correlation", "null"),
        ("curves", "classes subsample trim null"),
        ("curves curves", "classes"),
        ("cosines", "null cosine"),
        ("heatmap", "heatmap"),
        ("masks heatmap attack masks", "compare"),
        ("defense", "defense"),
        ("model", ""),
        ("heatmap heatmap", ""),
        ("attack attack masks", "radial"),
    ],
)
def test_figures_that_fit_some_files(kinds: str, figures: str) -> None:
    """The first of them is the one that is drawn without a name."""
    some = files(kinds)
    assert [name for name, figure in FIGURES.items() if figure.fits(some)] == figures.split()
