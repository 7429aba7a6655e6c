"""What a computation resumes from: values as bytes, passes in parts, and a journal that keeps nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import pytest
import torch
from dying import Dying
from torch import Tensor

from fmtool.runtime.journal import NO_JOURNAL, as_tensor, each, from_tensor, pack, unpack


def test_tensors_come_back_bit_for_bit() -> None:
    """Of any type and layout, on the CPU, without their graph."""
    leaf = torch.tensor([0.1, float("nan"), -0.0], requires_grad=True)
    given = {
        "floats": leaf, "turned": torch.arange(6, dtype=torch.float64).view(2, 3).T, "flags": torch.tensor([True, False]),
        "numbers": torch.tensor(-(2**63)), "complex": torch.tensor([1 + 2j]), "none": torch.zeros(0, 3),
    }  # fmt: skip
    found = unpack(pack(given))
    assert found.keys() == given.keys() and not found["floats"].requires_grad
    for name, value in given.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert torch.equal(found[name].nan_to_num(), value.detach().nan_to_num()), name
    assert math.copysign(1, float(found["floats"][2])) == -1


def test_json_values_come_back_as_they_were() -> None:
    value = {"p": 0.1 + 0.2, "names": ["ü", None, True], "n": 2**70}
    assert from_tensor(as_tensor(value)) == value and as_tensor(value).dtype == torch.uint8
    assert math.isnan(from_tensor(as_tensor(math.nan)))


def test_a_journal_that_keeps_nothing_takes_everything() -> None:
    NO_JOURNAL.save(lambda: pytest.fail("asked for a state"))
    NO_JOURNAL.finish("part", {})
    NO_JOURNAL.finish_row(0, {})
    NO_JOURNAL.save_rows({0: {}})
    NO_JOURNAL.stop_at_once()
    assert (NO_JOURNAL.load(), NO_JOURNAL.part("part"), NO_JOURNAL.rows(), NO_JOURNAL.row_state(0)) == (
        None,
        None,
        [],
        None,
    )
    assert not NO_JOURNAL.due()
    with pytest.raises(KeyError):
        NO_JOURNAL.row(0)


def test_only_what_is_not_there_is_computed() -> None:
    """And each part is recorded as soon as it is taken, so that a pass goes on from its middle."""
    journal, asked = Dying(()), []

    def compute(numbers: Sequence[int]) -> Iterable[Tensor]:
        asked.append(list(numbers))
        return (torch.tensor([10 * number]) for number in numbers)

    begun: Iterator[Tensor] = each(journal, "pass", [3, 1, 2], compute)
    assert [int(next(begun)), int(next(begun))] == [30, 10]
    assert set(journal.parts) == {"pass 3", "pass 1"}
    assert [int(value) for value in each(journal, "pass", [3, 1, 2], compute)] == [30, 10, 20]
    assert [int(value) for value in each(journal, "other", [1], compute)] == [10]
    assert asked == [[3, 1, 2], [2], [1]]
