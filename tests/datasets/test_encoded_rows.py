"""Images that stay in their files: the same pixels as in memory, in little of it, decoded by several threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmtool.datasets import encoded_rows
from fmtool.datasets.data import Data, load, some_of
from fmtool.datasets.encoded_rows import EncodedRows, spread_out
from fmtool.datasets.rows import take, with_channels


@pytest.fixture
def both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Data, Data]:
    """The same folder in its files and in memory."""
    for number in range(40):
        path = tmp_path / "set" / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(path)
    whole = load(str(tmp_path / "set"))
    monkeypatch.setattr(encoded_rows, "IN_MEMORY", 100)
    return load(str(tmp_path / "set")), whole


def test_rows_are_those_in_memory(both_ways: tuple[Data, Data]) -> None:
    lazy, whole = both_ways
    assert isinstance(lazy.images, EncodedRows) and isinstance(whole.images, torch.Tensor)
    assert lazy.images.shape == tuple(whole.images.shape) and lazy.images.dtype == whole.images.dtype
    assert (
        lazy.digest == whole.digest and torch.equal(lazy.key, whole.key) and torch.equal(lazy.pixels(), whole.pixels())
    )
    rows = (3, -1, slice(2, 30, 3), torch.tensor([5, 5, 0]), torch.tensor(7), whole.labels == 1, [4, 2], slice(0, 0))
    for some in rows:
        assert torch.equal(lazy.images[some], whole.images[some]), some


def test_a_picture_is_decoded_once_where_the_disk_has_room(
    both_ways: tuple[Data, Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in the pass for the digest again; the file has no name, so that nothing is left of it."""
    lazy, whole = both_ways
    assert isinstance(lazy.images, EncodedRows) and lazy.images.pixels is not None and all(lazy.images.there)

    def decoded(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(encoded_rows, "decode", decoded)
    assert torch.equal(lazy.images[:], whole.images[:]) and torch.equal(lazy.images[7], whole.images[7])
    some = lazy.images[torch.tensor([3, 30, 3])]
    assert torch.equal(some, whole.images[[3, 30, 3]])


def test_without_room_on_the_disk_pictures_are_decoded_each_time(
    both_ways: tuple[Data, Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_rows, "ROOM_LEFT", 2**60)
    lazy, whole = both_ways
    again = EncodedRows(lazy.images.files, "set", None)  # type: ignore[attr-defined]
    assert again.pixels is None and torch.equal(again[:], whole.images[:]) and torch.equal(again[3], whole.images[3])


def test_parts_and_channels_are_those_in_memory(both_ways: tuple[Data, Data]) -> None:
    lazy, whole = both_ways
    chosen = torch.tensor([9, 1, 30])
    assert torch.equal(some_of(lazy, chosen).pixels(), some_of(whole, chosen).pixels())
    assert torch.equal(some_of(lazy, chosen).key, whole.key[chosen]) and len(some_of(lazy, chosen).images) == 3
    grey = with_channels(take(lazy.images, chosen), 1)
    assert grey.shape == (3, 1, 6, 5) and torch.equal(grey[:], with_channels(whole.images, 1)[chosen])
    assert torch.equal(grey[1], grey[:][1]) and torch.equal(grey[torch.tensor([True, False, True])], grey[:][[0, 2]])


def test_work_is_shared_among_threads_and_comes_back_in_order() -> None:
    seen, both = set(), threading.Barrier(2, timeout=20)

    def work(item: int) -> int:
        if item < 2:
            both.wait()  # for another thread, which does the other one at the same time
        seen.add(threading.get_ident())
        return item * item

    threads = encoded_rows._threads()
    if threads._max_workers < 2:
        pytest.skip("one core")
    assert list(spread_out(work, range(1000))) == [item * item for item in range(1000)]
    assert threading.get_ident() not in seen and len(seen) >= 2


def test_few_are_decoded_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_rows, "AHEAD", 4)
    begun = []
    results = spread_out(lambda item: begun.append(item) or item, range(1000))
    assert next(results) == 0 and len(begun) < 10
    results.close()  # type: ignore[attr-defined]


@pytest.mark.processes
def test_images_beyond_all_memory_are_read_as_they_are_needed(tmp_path: Path) -> None:
    """3,000 pictures of a few bytes, 2 GB of pixels, for a process that may have half of that beside its libraries."""
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.new("RGB", (480, 480), (7, 8, 9)).save(tmp_path / "set" / "a" / "0.png")
    for number in range(1, 3000):
        (tmp_path / "set" / "a" / f"{number}.png").hardlink_to(tmp_path / "set" / "a" / "0.png")
    code = (
        "import resource, sys, torch, PIL.Image, fmtool\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n"
        "data = fmtool.load_data(sys.argv[1])\n"
        "print(len(data), data.images[2999][:, 0, 0].tolist())"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "set")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3000 [7, 8, 9]\n"
