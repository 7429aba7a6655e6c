"""Which pairs of masks are correlated, and how they are joined."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from small_files import changed, load

import fmtool
from fmtool.correlation import engine
from fmtool.correlation.numerics import neighbours
from fmtool.errors import ArtifactError, FmtoolWarning, MaskError, StatisticError
from fmtool.tables.correlations import correlation_tables, table1


def test_rows_are_joined_by_image_never_by_place(files: Path) -> None:
    """Shuffled files of the same images give the same statistics and the same matrix."""
    essential, adversarial = load(files, "essential"), load(files, "adversarial")
    order = torch.randperm(len(essential["labels"]), generator=torch.Generator().manual_seed(0))
    mixed = dataclasses.replace(essential, tensors={name: tensor[order] for name, tensor in essential.tensors.items()})
    one = fmtool.correlate(adversarial, essential, permutations=5)
    two = fmtool.correlate(adversarial, mixed, permutations=5)
    assert [s["observed"] for s in one.header["statistics"]] == [s["observed"] for s in two.header["statistics"]]
    model, attack = load(files, "model"), load(files, "fmn")
    order = torch.randperm(len(attack["labels"]), generator=torch.Generator().manual_seed(1))
    mixed = dataclasses.replace(attack, tensors={name: tensor[order] for name, tensor in attack.tensors.items()})
    found = fmtool.defend(model, [attack, mixed], [load(files, "plain")])
    assert found.header["rows"] == ["clean", "fmn", "FMN 2"]
    assert found.header["matrix"][1] == found.header["matrix"][2]


def test_correlate_counts_what_it_leaves_out(files: Path) -> None:
    essential, adversarial = load(files, "essential"), load(files, "adversarial")
    preserved = essential["preserved"].clone()
    preserved[:5] = False
    both = (preserved & True).sum() - (~adversarial["preserved"][5:]).sum()
    found = fmtool.correlate(changed(essential, preserved=preserved), adversarial, permutations=3)
    assert found.header["n"] == int(both)
    assert found.header["dropped"]["not preserved on both sides"] == len(preserved) - int(both)


def test_correlating_a_set_with_itself_is_as_high_as_it_gets(files: Path) -> None:
    essential = load(files, "essential")
    found = fmtool.correlate(essential, essential, permutations=9, statistics=["cosine", "svcca"])
    for one in found.header["statistics"]:
        assert one["observed"] == pytest.approx(1, abs=1e-9)


def test_pooled_masks_correlate(files: Path) -> None:
    """--pool on masks of 9x9 images: 3x3 bins a channel."""
    essential = load(files, "essential")
    masks = torch.rand(len(essential["labels"]), 1, 9, 5)
    nine = dataclasses.replace(
        changed(essential, masks=masks, preserved=torch.ones_like(essential["preserved"])),
        header={**essential.header, "image_size": [9, 9]},
    )
    found = fmtool.correlate(nine, nine, pool=3, permutations=3, statistics=["cosine"])
    assert found.header["statistics"][0]["observed"] == pytest.approx(1)
    with pytest.raises(MaskError, match="odd number"):
        fmtool.correlate(nine, nine, pool=2)


def test_masks_of_two_models_get_a_line(files: Path) -> None:
    essential, adversarial = load(files, "essential"), load(files, "adversarial")
    history = copy.deepcopy(adversarial.history)
    for stage in history:
        for source in stage["inputs"]:
            if source["kind"] == "model":
                source["digest"] = "0" * 64
    with pytest.warns(FmtoolWarning, match="masks of two models"):
        fmtool.correlate(essential, dataclasses.replace(adversarial, history=history), permutations=3)


def test_shards_of_masks_are_not_the_whole_job(files: Path) -> None:
    essential, adversarial = load(files, "essential"), load(files, "adversarial")
    part = dataclasses.replace(essential, header={**essential.header, "shard": {"number": 1, "of": 2, "rows": 99}})
    for sides in ((part, adversarial), (adversarial, part)):
        with pytest.raises(ArtifactError, match="is shard 1 of 2: merge the shards"):
            fmtool.correlate(*sides, permutations=3)
    with pytest.raises(ArtifactError, match="is shard 1 of 2: merge the shards"):
        fmtool.check_masks(load(files, "model"), load(files, "fmn"), part)


def test_points_of_curves_count_pairs_that_can_not_be_exchanged() -> None:
    """Class 2 has one pair."""
    x = torch.rand(13, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0] * 6 + [1] * 6 + [2])
    found = fmtool.correlate(x, x.flip(1), labels=labels, statistics=["cosine"], permutations=3, class_subsets=True)
    points = [point for entry in found.header["curves"]["class_subsets"] for point in entry["points"]]
    counts = {tuple(point["classes"]): point.get("alone_in_class", 0) for point in points if "reason" not in point}
    assert counts == {(0,): 0, (1,): 0, (0, 1): 0, (0, 2): 1, (1, 2): 1, (0, 1, 2): 1}


def test_labels_are_for_matrices(files: Path) -> None:
    essential, adversarial = load(files, "essential"), load(files, "adversarial")
    with pytest.raises(StatisticError, match=r"^labels: mask files have their own; pass labels only with matrices$"):
        fmtool.correlate(essential, adversarial, labels=essential["labels"])


def test_what_sets_masks_apart_is_recorded_and_shown(files: Path) -> None:
    """Basis, objective, adapted lambda, and rows that are not scaled: two such files are no two of the same."""
    model, attack = load(files, "model"), load(files, "fmn")
    few = {"min_steps": 1, "max_steps": 2}
    sides = [
        fmtool.fit_masks(model, attack, for_=purpose, basis="dct", adapt_lambda=True, **few)  # type: ignore[arg-type]
        for purpose in ("essential", "adversarial")
    ]
    plain = [load(files, "essential"), load(files, "adversarial")]
    scaled, unscaled = (
        fmtool.correlate(*plain, statistics=["idcor"], permutations=3, row_normalise=form) for form in (True, False)
    )
    cosines = fmtool.correlate(*sides, statistics=["cosine"], permutations=3)
    assert [side["basis"] for side in cosines.header["sides"]] == ["dct", "dct"]
    assert "basis" not in scaled.header["sides"][0] and "row_normalise" not in scaled.header
    table = table1([scaled.header, unscaled.header], ["a", "b"])
    assert [row[1] for row in table.rows] == ["3 permutations", "3 permutations, rows as they are"]
    both = table1([cosines.header, fmtool.correlate(*plain, statistics=["cosine"], permutations=3).header])
    assert [row[0] for row in both.rows] == ["FMN, dct, adapted lambda", "FMN"]


def test_pairs_that_a_statistic_leaves_out_are_told_everywhere(files: Path) -> None:
    """A row of zeros has no cosine."""
    sides = [load(files, "essential"), load(files, "adversarial")]
    masks = sides[0]["masks"].clone()
    masks[:4] = 0
    sides[0] = changed(sides[0], masks=masks)
    n = fmtool.correlate(
        *sides, statistics=["cosine"], permutations=3, subsample=[20], draws=2, trim=[0, 0.5], class_subsets=True
    )
    zero = n.header["statistics"][0]["dropped"]
    assert sum(zero.values()) > 0
    for table in correlation_tables(n.header):
        assert any("left out" in note or "leave out" in note for note in table.notes), table.title
    assert any("left out" in note for note in table1([n.header]).notes)


def test_small_entries_are_not_counted_where_pooling_makes_them(files: Path) -> None:
    pooled = fmtool.correlate(
        load(files, "essential"), load(files, "adversarial"), statistics=["cosine"], permutations=3, pool=1
    )
    assert all("residue" not in side for side in pooled.header["sides"])


def test_arrays_are_taken_as_they_are_from_files() -> None:
    x, y = torch.rand(30, 3), torch.rand(30, 4)
    labels = [0, 1] * 15
    one = fmtool.correlate(x, y, labels=torch.tensor(labels), permutations=5, statistics=["cka"])
    for a, b, these in ((x.numpy(), y.numpy(), labels), (x.to_sparse(), y, torch.tensor(labels, dtype=torch.float32))):
        two = fmtool.correlate(a, b, labels=these, permutations=5, statistics=["cka"])  # type: ignore[arg-type]
        assert one.header["statistics"][0] == two.header["statistics"][0]


def test_what_is_no_mask_file_and_no_matrix_is_refused_in_a_line(files: Path) -> None:
    x, y = torch.rand(30, 3), torch.rand(30, 3)
    for a, labels, statistics, said in (
        ("x.npy", None, ["cka"], "expected a matrix of numbers, got str"),
        (load(files, "correlation"), None, ["cka"], "expected masks, got correlation"),
        (x, torch.full((30,), torch.nan), ["cka"], "expected labels that are integers"),
        (x, torch.full((30,), torch.inf), ["cka"], "expected labels that are integers"),
        (x, torch.full((30,), 0.5), ["cka"], "expected labels that are integers"),
        (x, torch.zeros(30, dtype=torch.complex64), ["cka"], "expected labels that are integers"),
        (x, torch.zeros(0), ["cka"], "expected one label per row"),
        (x, None, [], "expected at least one statistic of"),
    ):
        with pytest.raises((ArtifactError, StatisticError), match=said):
            fmtool.correlate(a, y, labels=labels, statistics=statistics, permutations=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", [None, 7])
def test_masks_that_may_not_fit_into_memory_are_told_before_they_are_read(
    files: Path, pool: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 224x224 a pair takes up to 11 MB, and the system ends a program that has too little without a word."""
    a, b = (load(files, name) for name in ("essential", "adversarial"))
    if pool:
        a, b = (changed(one, masks=torch.rand(len(one["masks"]), 1, 14, 8)) for one in (a, b))
        for one in (a, b):
            one.header["image_size"] = [14, 14]
    n = int(fmtool.correlate(a, b, statistics=["cosine"], permutations=1, pool=pool).header["n"])
    needed = 36 * 2 * n * (4 if pool else 64)
    monkeypatch.setattr(engine, "SURELY_FREE", 1)
    monkeypatch.setattr(neighbours, "free_memory", lambda: needed - 1)
    with pytest.warns(FmtoolWarning, match=r"^these rows may need 0.0 GB of memory, .* --pool averages masks"):
        fmtool.correlate(a, b, statistics=["cosine"], permutations=1, pool=pool)
    monkeypatch.setattr(neighbours, "free_memory", lambda: needed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FmtoolWarning)
        fmtool.correlate(a, b, statistics=["cosine"], permutations=1, pool=pool)
