"""Small work runs on one thread, and the setting comes back."""

from __future__ import annotations

from collections.abc import Callable

import numba
import pytest
import torch

from fmtool.correlation.numerics.threads import one_thread_if


@pytest.mark.parametrize("small", [True, False])
def test_one_thread_inside_and_all_again_outside(small: bool, set_threads: Callable[[int], None]) -> None:
    set_threads(3)
    with pytest.raises(KeyError), one_thread_if(small):
        assert (torch.get_num_threads(), numba.get_num_threads()) == ((1, 1) if small else (3, 2))
        raise KeyError
    assert (torch.get_num_threads(), numba.get_num_threads()) == (3, 2)
