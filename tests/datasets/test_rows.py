"""Images as rows: selection, seeds, keys, and conversion of channels."""

from __future__ import annotations

from fmtool.datasets.rows import row_seed


def test_several_draws_for_an_image_differ_and_leave_the_first_as_it_was() -> None:
    """The seed without a trial is what files of earlier versions were made from."""
    assert row_seed(0, -5, 7) == 8370682566865628288
    assert len({row_seed(0, -5, 7, *trial) for trial in ((), (0,), (1,), ("mask", 0), ("mask", 1))}) == 5
