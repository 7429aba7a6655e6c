"""Tables of several files: one together where they fit, else one each."""

from __future__ import annotations

from fmtool.tables.registry import joined
from fmtool.tables.table import Table, as_csv


def test_files_of_a_kind_share_a_table_and_notes_say_whose_they_are() -> None:
    one, other = (Table("t", {"a": "d"}, [[number]], ["all", f"note {number}"]) for number in (1, 2))
    (made,) = joined([("x", [one]), ("y", [other])])
    assert list(made.columns) == ["file", "a"] and made.rows == [["x", 1], ["y", 2]]
    assert made.notes == ["all", "x: note 1", "y: note 2"]


def test_tables_that_do_not_fit_together_are_told_apart_by_their_titles() -> None:
    long = Table("t", {"a": "d"}, [[1], [2]])
    assert [table.title for table in joined([("x", [long]), ("y", [long])])] == ["t: x", "t: y"]
    assert joined([("x", [long])]) == [long]
    assert [as_csv(table) for table in joined([("x", [long]), ("y", [long])])] == [
        f"file,a\n{name},1\n{name},2\n" for name in "xy"
    ]
