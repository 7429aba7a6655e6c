"""The table of a model."""

from __future__ import annotations

from forged import HEADERS

from fmtool.tables.models import model_table


def test_a_row_says_what_the_model_is() -> None:
    fresh = model_table(HEADERS["model"])
    assert fresh.cells() == [["resnet8", "1x2x2", "2", "no", "-"]]
    trained = model_table({**HEADERS["model"], "input_shape": [3, 32, 32], "mean": [0.5] * 3, "accuracy": 0.91642})
    assert trained.cells() == [["resnet8", "3x32x32", "2", "yes", "91.64"]]
