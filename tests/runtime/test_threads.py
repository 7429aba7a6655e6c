"""Worker threads: how many, on how many threads of torch, and what becomes of errors."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from fmtool.runtime import threads as workers

CPU = torch.device("cpu")


def test_as_many_as_torch_has_threads_each_on_one_of_them(set_threads: Callable[[int], None]) -> None:
    set_threads(3)
    gate = threading.Barrier(3, timeout=60)
    with workers.pool(CPU) as pool:
        found = list(pool.map(lambda _: (gate.wait(), torch.get_num_threads(), threading.get_ident())[1:], range(3)))
    assert len({name for _, name in found}) == 3  # the barrier lets none go before all are there
    assert {count for count, _ in found} == {1}
    assert torch.get_num_threads() == workers.count(CPU) == 3  # of this thread
    assert workers.count(torch.device("cuda")) == 1


def test_a_thread_that_computes_alone_does_so_only_in_the_body(set_threads: Callable[[int], None]) -> None:
    set_threads(3)
    for device, inside in ((CPU, 1), (torch.device("cuda"), 3)):
        with pytest.raises(ValueError), workers.single(device):
            assert torch.get_num_threads() == inside
            raise ValueError
        assert torch.get_num_threads() == 3


def test_an_error_is_raised_and_work_not_begun_is_dropped() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        raise ValueError(str(number))

    with pytest.raises(ValueError, match="0"), workers.pool(CPU, 1) as pool:
        list(pool.map(work, range(1000)))
    assert len(begun) < 1000


def test_batches() -> None:
    assert [part.tolist() for part in workers.batches(torch.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    assert workers.batches(torch.arange(0), 2) == ()


FAULTS = """
import resource, torch
from fmtool.runtime import threads

def filtered():
    images = torch.rand(64, 3, 32, 32)
    for _ in range(100):
        spectra = torch.fft.rfft2(images)
        torch.fft.irfft2(spectra * 0.5, s=(32, 32))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

with threads.pool(torch.device("cpu"), 1) as pool:
    before = pool.submit(filtered).result()
    print(pool.submit(filtered).result() - before)
"""


@pytest.mark.processes  # memory that other tests used would hide it
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_operations_use_the_memory_again_that_earlier_ones_freed() -> None:
    settings = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    found = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 1000  # pages that the system hands out; 50,000 otherwise


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OTHER", "1", [-1, -3]),
        ("MALLOC_TRIM_THRESHOLD_", "1000", [-3]),
        ("MALLOC_MMAP_THRESHOLD_", "1000", [-1]),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1000", [-3]),
        ("GLIBC_TUNABLES", "glibc.malloc.check=0:glibc.malloc.mmap_threshold=1000", [-1]),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1000:glibc.malloc.trim_threshold=1000", []),
    ],
)
def test_settings_of_malloc_from_outside_stay(
    variable: str, value: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters: list[int] = []
    library = SimpleNamespace(mallopt=lambda parameter, size: parameters.append(parameter))
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    workers.keep_freed_memory.__wrapped__()
    assert parameters == expected
