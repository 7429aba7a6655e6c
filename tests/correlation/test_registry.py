"""The tables of statistics and of estimators of dimensions."""

from __future__ import annotations

import skdim

from fmtool.correlation import registry
from fmtool.correlation.registry import DIMENSION, DIMENSIONS, STATISTICS, STATISTICS_BY_DEFAULT, statistic_kind


def test_defaults_are_in_their_tables() -> None:
    assert set(STATISTICS_BY_DEFAULT) < set(STATISTICS) and DIMENSION in DIMENSIONS
    assert [name for name, kind in STATISTICS.items() if kind.p_in_table1 or kind.std_in_table1] == ["cosine", "idcor"]
    assert registry.ALL not in STATISTICS


def test_a_statistic_of_a_newer_version_has_a_heading_that_says_so() -> None:
    assert statistic_kind("svcca") is STATISTICS["svcca"]
    assert statistic_kind("mutual").heading == "mutual (unknown statistic)"


def test_every_estimator_is_a_class_of_scikit_dimension() -> None:
    assert all(isinstance(getattr(skdim.id, name), type) for name, _ in DIMENSIONS.values())
