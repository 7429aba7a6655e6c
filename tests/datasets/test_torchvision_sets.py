"""torchvision's data sets, without the network: stand-ins for its classes, and for the files that they would read."""

from __future__ import annotations

import bz2
import gzip
import inspect
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from conftest import Run
from PIL import Image

from fmtool.datasets.data import load
from fmtool.datasets.registry import DATASETS
from fmtool.datasets.torchvision_sets import OfTorchvision, sort_omniglot
from fmtool.errors import DataError, FmtoolWarning

TABLE = {name: known.load for name, known in DATASETS.items() if isinstance(known.load, OfTorchvision)}
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FMTOOL_DATA", raising=False)
    return tmp_path / "cache"


@pytest.mark.parametrize("name", TABLE)
def test_every_row_names_a_class_of_torchvision_and_arguments_that_it_takes(name: str) -> None:
    row = TABLE[name]
    known = inspect.signature(getattr(torchvision.datasets, row.kind).__init__).parameters
    for split, arguments in row.splits.items():
        assert split in ("", "train", "val", "test")
        assert all(one in known or "kwargs" in known for one in arguments), (name, arguments, list(known))
    assert "download" in known or "kwargs" in known
    assert row.at and bool(row.size) == bool(row.address)


def test_all_classification_sets_that_need_no_account_have_a_row() -> None:
    """The rest of torchvision's list: captions, several labels an image, generated, or behind an account."""
    others = {"CelebA", "FakeData", "FER2013", "Flickr8k", "Flickr30k", "ImageNet", "LSUN", "LSUNClass", "SBU"}
    listed = """Caltech101 Caltech256 CelebA CIFAR10 CIFAR100 Country211 DTD EMNIST EuroSAT FakeData FashionMNIST FER2013
        FGVCAircraft Flickr8k Flickr30k Flowers102 Food101 GTSRB INaturalist ImageNet Imagenette KMNIST LFWPeople LSUN MNIST
        Omniglot OxfordIIITPet Places365 PCAM QMNIST RenderedSST2 SEMEION SBU StanfordCars STL10 SUN397 SVHN USPS"""
    assert {row.kind for row in TABLE.values()} == set(listed.split()) - others


# Stand-ins for classes -----------------------------------------------------------------------------------------------


class _Stand:
    """What torchvision's classes have in common: they raise where there is nothing and they may not download it."""

    at = "there"

    def __init__(self, root: str, download: bool, **arguments: Any) -> None:
        self.root, self.which = Path(root), arguments
        if not (self.root / self.at).exists():
            if not download:
                raise RuntimeError("Dataset not found. You can use download=True to download it")
            (self.root / self.at).mkdir(parents=True)
        elif download:
            raise AssertionError("downloaded again")
        self.fill(0 if arguments.get("train") or arguments.get("split") == "train" else 1)

    def fill(self, part: int) -> None:
        raise NotImplementedError

    def picture(self, number: int) -> Path:
        path = self.root / self.at / f"{number}.png"
        Image.fromarray(np.full((4, 4, 3), number, dtype=np.uint8)).save(path)
        return path


class _Arrays(_Stand):
    at = "stl10_binary"
    classes = ("plane", "car")

    def fill(self, part: int) -> None:
        self.data, self.labels = np.full((2 - part, 3, 5, 5), part, np.uint8), np.arange(2 - part)


class _Svhn(_Arrays):
    at = "train_32x32.mat"


class _Grey(_Stand):
    at = "usps.bz2"

    def fill(self, part: int) -> None:
        self.data, self.targets = np.full((2, 16, 16), 7 + part, np.uint8), [3, 9]


class _Files(_Stand):
    at = "food-101"
    classes = ("pie", "soup")

    def fill(self, part: int) -> None:
        self._image_files, self._labels = [self.picture(10 * part + k) for k in range(2)], [1, 0]


class _Pairs(_Stand):
    at = "gtsrb"

    def fill(self, part: int) -> None:
        self._samples = [(str(self.picture(10 * part + k)), 42 - k) for k in range(2)]


class _Items(_Stand):
    """Known by index alone."""

    at = "pcam"

    def fill(self, part: int) -> None:
        self.part = part

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.full((4, 4, 3), 10 * self.part + row, dtype=np.uint8)), 1 - row


STANDS = {  # name: stand-in, pixels and labels of the test split, class names, rows of the training split
    "stl10": ("STL10", _Arrays, [1], [0], ("plane", "car"), 2),
    "svhn": ("SVHN", _Svhn, [1], [0], tuple("0123456789"), 2),
    "usps": ("USPS", _Grey, [8, 8], [3, 9], tuple("0123456789"), 2),
    "food101": ("Food101", _Files, [10, 11], [1, 0], ("pie", "soup"), 2),
    "gtsrb": ("GTSRB", _Pairs, [10, 11], [42, 41], tuple(map(str, range(43))), 2),
    "pcam": ("PCAM", _Items, [10, 11], [1, 0], ("no tumour", "tumour"), 2),
}


@pytest.mark.parametrize("name", STANDS)
def test_data_sets_of_every_make_are_downloaded_once(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, stand, pixels, labels, class_names, of_training = STANDS[name]
    monkeypatch.setattr(f"torchvision.datasets.{kind}", stand)
    test = load(name)
    out, err = capsys.readouterr()
    row = TABLE[name]
    assert out == "" and err == f"downloading {row.address} ({row.size}) to {cache / kind.lower()}\n"
    assert test.images[:, 0, 0, 0].tolist() == pixels and test.labels.tolist() == labels
    assert test.class_names == class_names and test.name == name and test.split == "test"
    assert len(load(f"{name}:train")) == of_training
    assert capsys.readouterr() == ("", "")


def test_a_download_that_is_interrupted_is_never_read(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: _Files, part: int) -> None:
        raise KeyboardInterrupt

    (cache / "food101").mkdir(parents=True)
    (cache / "food101" / "food-101.tar.gz").write_bytes(b"the beginning")
    monkeypatch.setattr("torchvision.datasets.Food101", _Files)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Files, "fill", interrupted)
        load("food101")
    assert [path.name for path in cache.rglob("*")] == ["food101", "food-101.tar.gz"]
    capsys.readouterr()
    assert len(load("food101")) == 2 and "downloading" in capsys.readouterr().err
    assert sorted(path.name for path in cache.rglob("*") if path.parent.parent == cache) == [
        "food-101",
        "food-101.tar.gz",
    ]


def test_a_cache_folder_may_be_a_link(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.Food101", _Files)
    cache.mkdir(parents=True)
    (tmp_path / "big").mkdir()
    (cache / "food101").symlink_to(tmp_path / "big", target_is_directory=True)
    assert len(load("food101")) == 2 and [one.name for one in (tmp_path / "big").iterdir()] == ["food-101"]


def test_of_two_downloads_at_once_the_first_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overtaken(_Files):
        def fill(self, part: int) -> None:
            super().fill(part)
            if self.root != cache / "food101":
                (cache / "food101" / self.at).mkdir(parents=True, exist_ok=True)
                (cache / "food101" / self.at / "first").touch()

    monkeypatch.setattr("torchvision.datasets.Food101", Overtaken)
    assert len(load("food101")) == 2
    assert (cache / "food101" / "food-101" / "first").exists() and len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("name", STANDS)
@pytest.mark.parametrize("how", ["option", "environment"])
def test_what_lies_below_the_data_root_is_not_downloaded(
    name: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, stand, pixels, *_ = STANDS[name]
    monkeypatch.setattr(f"torchvision.datasets.{kind}", stand)
    (tmp_path / "mine" / stand.at).mkdir(parents=True)
    if how == "environment":
        monkeypatch.setenv("FMTOOL_DATA", str(tmp_path / "mine"))
    test = load(name, data_root=str(tmp_path / "mine") if how == "option" else None)
    assert test.images[:, 0, 0, 0].tolist() == pixels
    assert capsys.readouterr() == ("", "") and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "error", [OSError("<urlopen error unreachable>"), RuntimeError("Dataset not found or corrupted.")]
)
@pytest.mark.parametrize("name", ["cifar10", "imagenette", "dtd"])
def test_download_that_fails_is_told(
    name: str, error: Exception, run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"torchvision.datasets.{TABLE[name].kind}", fail)
    outcome = run("attack", files / "model.safetensors", "--data", name, "-o", tmp_path / "attack")
    assert outcome.code == 1 and outcome.out == ""
    assert outcome.err.splitlines()[-1] == f"fmtool: error: {TABLE[name].folder} can't be downloaded: {error}"
    assert outcome.err.startswith(f"downloading {TABLE[name].address} (") and len(outcome.err.splitlines()) == 2


def test_what_can_not_be_downloaded_says_where_it_should_lie() -> None:
    with pytest.raises(
        DataError, match="StanfordCars can't be downloaded: expected it below --data-root, as stanford_cars"
    ):
        load("stanford-cars")


def test_a_data_root_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data-root .*nowhere: no such folder"):
        load("cifar10", data_root=str(tmp_path / "nowhere"))


# Stand-ins for files -------------------------------------------------------------------------------------------------


def _cifar(folder: Path, names: tuple[str, ...], meta: str, key: bytes, classes: list[bytes], labels: bytes) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        data = np.full((2, 3072), number, np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": data, labels: [number % 2, 0]}, protocol=2))
    (folder / meta).write_bytes(pickle.dumps({key: classes}, protocol=2))


def test_cifar_below_the_data_root(tmp_path: Path) -> None:
    ten = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
    _cifar(tmp_path / "cifar-10-batches-py", ten, "batches.meta", b"label_names", [b"plane", b"car"], b"labels")
    _cifar(
        tmp_path / "cifar-100-python",
        ("train", "test"),
        "meta",
        b"fine_label_names",
        [b"apple", b"bee"],
        b"fine_labels",
    )
    train, test = (load(f"cifar10:{split}", data_root=str(tmp_path)) for split in ("train", "test"))
    assert train.images[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] and test.images[
        :, 2, 31, 31
    ].tolist() == [5, 5]
    assert train.class_names == ("plane", "car") and test.labels.tolist() == [1, 0]
    hundred = load("cifar100", data_root=str(tmp_path))
    assert hundred.class_names == ("apple", "bee") and hundred.labels.tolist() == [1, 0] and hundred.name == "cifar100"


def _idx(values: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_idx_below_the_data_root_is_what_torchvision_reads(
    name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 3), ("t10k", 2)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(_idx(RNG.integers(0, 256, (n, 28, 28))))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(_idx(RNG.integers(0, 10, n)))
    test, train = load(name, data_root=str(tmp_path)), load(f"{name}:train", data_root=str(tmp_path))
    theirs = getattr(torchvision.datasets, TABLE[name].kind)(str(tmp_path), train=False)
    assert torch.equal(test.images[:, 0], theirs.data) and torch.equal(test.labels, theirs.targets) and len(train) == 3
    assert test.class_names == (tuple("0123456789") if name == "mnist" else tuple(theirs.classes))


def test_gzipped_idx_below_the_data_root(tmp_path: Path) -> None:
    for part, n in (("train", 3), ("t10k", 2)):
        (tmp_path / "mnist").mkdir(exist_ok=True)
        (tmp_path / "mnist" / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(np.full((n, 28, 28), n))))
        (tmp_path / "mnist" / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(np.arange(n))))
    assert load("mnist", data_root=str(tmp_path)).images[:, 0, 3, 3].tolist() == [2, 2]


def test_imagenette_below_the_data_root_has_val_for_test(tmp_path: Path) -> None:
    for number, name in enumerate(["train/n01/1.JPEG", "val/n01/1.JPEG", "val/n02/1.JPEG"]):
        path = tmp_path / "imagenette2" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((8 + number, 7, 3), number, dtype=np.uint8)).save(path)
    test = load("imagenette", size=8, data_root=str(tmp_path))
    assert test.images.shape == (2, 3, 8, 8) and test.class_names == ("n01", "n02")
    assert test.record() == {"name": "imagenette", "split": "val"}
    with pytest.raises(DataError, match=r"imagenette.*mixed sizes .*--size"):
        load("imagenette", data_root=str(tmp_path))


def test_files_that_are_there_but_damaged_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"\x80\x02nothing")
    with pytest.raises(DataError, match="test_batch can't be unpickled"):
        load("cifar10", data_root=str(tmp_path))


def test_a_split_that_is_cut_short_is_left_out_of_the_others(tmp_path: Path) -> None:
    """Of a kind of file whose end is an EOFError, which is none of the usual errors."""
    lines = "".join(
        f"{label} " + " ".join(f"{place}:{place / 256}" for place in range(256)) + "\n" for label in range(1, 11)
    )
    whole = bz2.compress(lines.encode())
    (tmp_path / "usps.t.bz2").write_bytes(whole)
    (tmp_path / "usps.bz2").write_bytes(whole[:-20])
    with pytest.warns(FmtoolWarning, match=r"left out the split train: Compressed file ended before"):
        assert load("usps:test", data_root=str(tmp_path)).labels.tolist() == list(range(10))
    with pytest.raises(DataError, match="usps"):
        load("usps:train", data_root=str(tmp_path))
    (tmp_path / "usps.t.bz2").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"usps.*: can't be read as USPS: Compressed file ended before"):
        load("usps:test", data_root=str(tmp_path))


def test_omniglots_characters_are_numbered_by_name() -> None:
    """And its images listed by theirs, not in the order of the file system."""
    opened = SimpleNamespace(
        _characters=["b/y", "a/x"], _flat_character_images=[("2.png", 0), ("1.png", 0), ("1.png", 1), ("0.png", 1)]
    )
    sort_omniglot(opened)
    assert opened._characters == ["a/x", "b/y"]
    assert opened._flat_character_images == [("0.png", 0), ("1.png", 0), ("1.png", 1), ("2.png", 1)]
