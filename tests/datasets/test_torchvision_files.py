"""Every named data set from a few files in its own format, below --data-root: what torchvision's class makes of them."""

from __future__ import annotations

import bz2
import importlib.util
import io
import json
import os
import pickle
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from fmtool.datasets.data import load
from fmtool.datasets.registry import DATASETS
from fmtool.datasets.torchvision_sets import OfTorchvision

TABLE = {name: known.load for name, known in DATASETS.items() if isinstance(known.load, OfTorchvision)}
SPLITS = ("train", "val", "test")
NEEDS = {"pcam": "h5py"}  # scipy, which .mat needs, comes with fmtool


class Drawn:
    """Files of random pictures and arrays, each different."""

    def __init__(self, root: Path) -> None:
        self.root, self.rng = root, np.random.default_rng(3)

    def array(self, *shape: int) -> np.ndarray[Any, Any]:
        return self.rng.integers(0, 256, shape, dtype=np.uint8)

    def picture(self, name: str, mode: str = "RGB") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.array(*(10, 12, 3)[: 3 if mode == "RGB" else 2])).save(path)

    def pictures(self, *names: str) -> None:
        for name in names:
            self.picture(name)

    def text(self, name: str, content: str) -> None:
        self.bytes(name, content.encode())

    def bytes(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def mat(self, name: str, **values: Any) -> None:
        from scipy.io import savemat

        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, values)


def idx(values: np.ndarray[Any, Any], kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape) + values.tobytes()


class _Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its strings, which is what the files of CIFAR hold."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        short = len(value) < 256
        self.write((b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value)

    dispatch[bytes] = save_bytes


def pickled(content: object) -> bytes:
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    return file.getvalue()


def cifar(draw: Drawn, folder: str, files: Sequence[str], labels: bytes, meta: tuple[str, bytes], classes: int) -> None:
    for number, name in enumerate(files):
        content = {b"data": draw.array(2, 3072), labels: [number % classes, 1]}
        draw.bytes(f"{folder}/{name}", pickled(content))
    names = [f"class {k}".encode() for k in range(classes)]
    draw.bytes(f"{folder}/{meta[0]}", pickled({meta[1]: names}))


def cifar10(draw: Drawn) -> None:
    files = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    cifar(draw, "cifar-10-batches-py", files, b"labels", ("batches.meta", b"label_names"), 10)


def cifar100(draw: Drawn) -> None:
    cifar(draw, "cifar-100-python", ["train", "test"], b"fine_labels", ("meta", b"fine_label_names"), 100)


def mnist(folder: str) -> Callable[[Drawn], None]:
    def make(draw: Drawn) -> None:
        for part, n in (("train", 3), ("t10k", 2)):
            draw.bytes(f"{folder}/raw/{part}-images-idx3-ubyte", idx(draw.array(n, 28, 28)))
            draw.bytes(f"{folder}/raw/{part}-labels-idx1-ubyte", idx(draw.array(n) % 10))

    return make


def qmnist(draw: Drawn) -> None:
    for part, n in (("train", 3), ("test", 2)):
        draw.bytes(f"QMNIST/raw/qmnist-{part}-images-idx3-ubyte", idx(draw.array(n, 28, 28)))
        columns = (draw.array(n, 8) % 10).astype(">i4")  # class, series, writer and so on
        draw.bytes(f"QMNIST/raw/qmnist-{part}-labels-idx2-int", idx(columns, kind=12))


def emnist(part: str) -> Callable[[Drawn], None]:
    def make(draw: Drawn) -> None:
        for split, n in (("train", 3), ("test", 2)):
            draw.bytes(f"EMNIST/raw/emnist-{part}-{split}-images-idx3-ubyte", idx(draw.array(n, 28, 28)))
            draw.bytes(f"EMNIST/raw/emnist-{part}-{split}-labels-idx1-ubyte", idx(draw.array(n) % 10))

    return make


def svhn(draw: Drawn) -> None:
    for split, labels in (("train", [10, 3, 1]), ("test", [9, 10])):  # 10 is the digit 0
        draw.mat(f"{split}_32x32.mat", X=draw.array(32, 32, 3, len(labels)), y=np.array(labels)[:, None])


def stl10(draw: Drawn) -> None:
    for split, n in (("train", 3), ("test", 2), ("unlabeled", 1)):
        draw.bytes(f"stl10_binary/{split}_X.bin", draw.array(n, 3, 96, 96).tobytes())
        draw.bytes(f"stl10_binary/{split}_y.bin", bytes(range(1, n + 1)))
    draw.text("stl10_binary/class_names.txt", "".join(f"class {k}\n" for k in range(10)))


def usps(draw: Drawn) -> None:
    for name, labels in (("usps.bz2", (10, 3, 1)), ("usps.t.bz2", (7, 1))):
        rows = [" ".join(f"{k}:{v / 255 * 2 - 1:.4f}" for k, v in enumerate(draw.array(256), 1)) for _ in labels]
        lines = (f"{label} {row}\n" for label, row in zip(labels, rows, strict=True))
        draw.bytes(name, bz2.compress("".join(lines).encode()))


def semeion(draw: Drawn) -> None:
    labels = (7, 0, 9)
    rows = [[*(draw.array(256) % 2), *(int(k == label) for k in range(10))] for label in labels]
    draw.text("semeion.data", "".join(" ".join(f"{value:.4f}" for value in row) + "\n" for row in rows))


def omniglot(draw: Drawn) -> None:
    for part, characters in (
        ("background", ("Greek/character01", "Latin/character01")),
        ("evaluation", ("Ge_ez/character02",)),
    ):
        for character in characters:
            for number in (1, 2):
                draw.picture(f"omniglot-py/images_{part}/{character}/000{number}_01.png", "L")
        draw.bytes(f"omniglot-py/images_{part}.zip", b"the archive, which torchvision looks for")


def gtsrb(draw: Drawn) -> None:
    for name in ("00000/00000_00000", "00001/00000_00000", "00002/00000_00001"):
        draw.picture(f"gtsrb/GTSRB/Training/{name}.ppm")
    draw.pictures("gtsrb/GTSRB/Final_Test/Images/00000.ppm", "gtsrb/GTSRB/Final_Test/Images/00001.ppm")
    draw.text("gtsrb/GT-final_test.csv", "Filename;Width;ClassId\n00000.ppm;12;2\n00001.ppm;12;0\n")


def imagenette(draw: Drawn) -> None:
    draw.pictures(
        *(
            f"imagenette2/{name}.JPEG"
            for name in ("train/n01440764/1", "train/n02102040/2", "val/n01440764/3", "val/n02102040/4")
        )
    )


def food101(draw: Drawn) -> None:
    for split, names in (
        ("train", {"soup": ["soup/1"], "pie": ["pie/1", "pie/2"]}),
        ("test", {"soup": ["soup/2"], "pie": ["pie/3"]}),
    ):
        draw.text(f"food-101/meta/{split}.json", json.dumps(names))
        draw.pictures(*(f"food-101/images/{name}.jpg" for some in names.values() for name in some))


def flowers102(draw: Drawn) -> None:
    draw.pictures(*(f"flowers-102/jpg/image_{number:05d}.jpg" for number in range(1, 7)))
    draw.mat("flowers-102/imagelabels.mat", labels=np.array([102, 5, 1, 7, 7, 50]))
    draw.mat("flowers-102/setid.mat", trnid=np.array([6, 1]), valid=np.array([2, 4]), tstid=np.array([3, 5]))


def pets(draw: Drawn) -> None:
    for split, lines in (
        ("trainval", ["Abyssinian_1 1 1 1", "great_pyrenees_7 2 2 1"]),
        ("test", ["great_pyrenees_8 2 2 1", "Abyssinian_3 1 1 1"]),
    ):
        draw.text(f"oxford-iiit-pet/annotations/{split}.txt", "".join(f"{line}\n" for line in lines))
        draw.pictures(*(f"oxford-iiit-pet/images/{line.split()[0]}.jpg" for line in lines))


def aircraft(draw: Drawn) -> None:
    folder = "fgvc-aircraft-2013b/data"
    draw.text(f"{folder}/variants.txt", "707-320\nA300B4\nCessna 172\n")
    for split, lines in (
        ("train", ["0001 Cessna 172", "0002 707-320"]),
        ("val", ["0003 A300B4"]),
        ("test", ["0004 Cessna 172", "0005 A300B4"]),
    ):
        draw.text(f"{folder}/images_variant_{split}.txt", "".join(f"{line}\n" for line in lines))
        draw.pictures(*(f"{folder}/images/{line[:4]}.jpg" for line in lines))


def cars(draw: Drawn) -> None:
    for split, file, classes in (
        ("train", "devkit/cars_train_annos", (2, 1)),
        ("test", "cars_test_annos_withlabels", (1, 2)),
    ):
        rows = np.array([(f"0000{k}.jpg", c) for k, c in enumerate(classes)], dtype=[("fname", "O"), ("class", "u1")])
        draw.mat(f"stanford_cars/{file}.mat", annotations=rows)
        draw.pictures(*(f"stanford_cars/cars_{split}/0000{k}.jpg" for k in range(len(classes))))
    draw.mat("stanford_cars/devkit/cars_meta.mat", class_names=np.array(["Audi S4", "BMW M3"], dtype=object))


def dtd(draw: Drawn) -> None:
    for split, names in (
        ("train", ["dotted/1.jpg", "banded/2.jpg"]),
        ("val", ["banded/3.jpg", "dotted/4.jpg"]),
        ("test", ["dotted/5.jpg", "banded/6.jpg"]),
    ):
        draw.text(f"dtd/dtd/labels/{split}1.txt", "".join(f"{name}\n" for name in names))
        draw.pictures(*(f"dtd/dtd/images/{name}" for name in names))


def eurosat(draw: Drawn) -> None:
    draw.pictures(*(f"eurosat/2750/{name}.jpg" for name in ("Forest/Forest_1", "Forest/Forest_2", "River/River_1")))


def caltech101(draw: Drawn) -> None:
    names = ("BACKGROUND_Google/image_0001", "ant/image_0001", "ant/image_0002", "crab/image_0001")
    draw.pictures(*(f"caltech101/101_ObjectCategories/{name}.jpg" for name in names))


def caltech256(draw: Drawn) -> None:
    names = ("001.ak47/001_0001", "001.ak47/001_0002", "002.american-flag/002_0001")
    draw.pictures(*(f"caltech256/256_ObjectCategories/{name}.jpg" for name in names))


def country211(draw: Drawn) -> None:
    for split in ("train", "valid", "test"):
        draw.pictures(*(f"country211/{split}/{name}.jpg" for name in ("AD/1", "AE/2", "AE/3")))


def rendered_sst2(draw: Drawn) -> None:
    for split in ("train", "valid", "test"):
        draw.pictures(*(f"rendered-sst2/{split}/{name}.png" for name in ("negative/1", "positive/2", "positive/3")))


def pcam(draw: Drawn) -> None:
    import h5py

    for split, labels in (("train", (1, 0, 1)), ("valid", (0, 1)), ("test", (1, 0))):
        for what, values in (
            ("x", draw.array(len(labels), 96, 96, 3)),
            ("y", np.array(labels, np.uint8).reshape(-1, 1, 1, 1)),
        ):
            (draw.root / "pcam").mkdir(exist_ok=True)
            with h5py.File(draw.root / "pcam" / f"camelyonpatch_level_2_split_{split}_{what}.h5", "w") as file:
                file[what] = values


def sun397(draw: Drawn) -> None:
    draw.text("SUN397/ClassName.txt", "/a/abbey\n/a/apse/indoor\n/z/zoo\n")
    draw.pictures(
        *(f"SUN397/{name}.jpg" for name in ("z/zoo/sun_c", "a/abbey/sun_b", "a/apse/indoor/sun_a", "a/abbey/sun_a"))
    )


def places365(draw: Drawn) -> None:
    draw.text("categories_places365.txt", "/a/airfield 0\n/a/alley 1\n/z/zen_garden 2\n")
    draw.text("places365_train_standard.txt", "/a/alley/1.jpg 1\n/a/airfield/2.jpg 0\n")
    draw.text("places365_val.txt", "Places365_val_1.jpg 2\nPlaces365_val_2.jpg 1\n")
    draw.pictures("data_256_standard/a/alley/1.jpg", "data_256_standard/a/airfield/2.jpg")
    draw.pictures("val_256/Places365_val_1.jpg", "val_256/Places365_val_2.jpg")


def inaturalist(draw: Drawn) -> None:
    kinds = ("00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris",
             "00001_Plantae_Tracheophyta_Liliopsida_Poales_Poaceae_Zea_mays")  # fmt: skip
    for version in ("2021_train_mini", "2021_valid"):
        draw.pictures(*(f"{version}/{kind}/{name}.jpg" for kind in kinds for name in ("b", "c", "a")))


def lfw(draw: Drawn) -> None:
    draw.bytes("lfw-py/lfw-funneled.tgz", b"the archive, which torchvision looks for")
    draw.text("lfw-py/lfw-names.txt", "Ada_Lovelace\t1\nAlan_Turing\t2\nEmmy_Noether\t1\n")
    for split, people in (("DevTrain", (("Alan_Turing", 2), ("Ada_Lovelace", 1))), ("DevTest", (("Emmy_Noether", 1),))):
        draw.text(f"lfw-py/people{split}.txt", f"{len(people)}\n" + "".join(f"{name}\t{n}\n" for name, n in people))
        names = (f"{name}/{name}_{k:04d}" for name, n in people for k in range(1, n + 1))
        draw.pictures(*(f"lfw-py/lfw_funneled/{name}.jpg" for name in names))


MAKERS: dict[str, Callable[[Drawn], None]] = {
    "cifar10": cifar10, "cifar100": cifar100, "mnist": mnist("MNIST"), "fashion-mnist": mnist("FashionMNIST"),
    "kmnist": mnist("KMNIST"), "qmnist": qmnist, "svhn": svhn, "stl10": stl10, "usps": usps, "semeion": semeion,
    "omniglot": omniglot, "gtsrb": gtsrb, "imagenette": imagenette, "food101": food101, "flowers102": flowers102,
    "oxford-pets": pets, "fgvc-aircraft": aircraft, "stanford-cars": cars, "dtd": dtd, "eurosat": eurosat,
    "caltech101": caltech101, "caltech256": caltech256, "country211": country211, "rendered-sst2": rendered_sst2,
    "pcam": pcam, "sun397": sun397, "places365": places365, "inaturalist": inaturalist, "lfw-people": lfw,
    **{f"emnist-{part}": emnist(part) for part in ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")},
}  # fmt: skip


@pytest.fixture
def any_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose checksums are not the real ones' are taken, but must be there."""
    for name, module in list(sys.modules.items()):
        if name.startswith("torchvision.datasets") and hasattr(module, "check_integrity"):
            monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))


def test_every_row_has_a_maker() -> None:
    assert MAKERS.keys() == TABLE.keys()


@pytest.mark.usefixtures("any_sums")
@pytest.mark.parametrize("name", MAKERS)
def test_files_are_what_torchvision_makes_of_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every split, picture and label, and nothing is downloaded."""
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"torchvision's {TABLE[name].kind} needs {NEEDS[name]}, which is not installed")
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "mine"
    root.mkdir()
    MAKERS[name](Drawn(root))
    row = TABLE[name]
    for split, arguments in row.splits.items():
        data = load(f"{name}:{split}" if split else name, data_root=str(root))
        theirs: Any = getattr(torchvision.datasets, row.kind)(str(root), **arguments)
        items = [(np.asarray(picture), int(label), picture) for picture, label in theirs]
        assert len(data) == len(items) > 0
        order = (
            sorted(range(len(items)), key=lambda k: where(theirs, k))
            if name in ("sun397", "inaturalist")
            else range(len(items))
        )
        names = [str(one) for one in class_names(theirs, name)]
        for mine, k in enumerate(order):
            values, label, picture = items[k]
            image = data.images[mine].permute(1, 2, 0).numpy()
            expected = values[..., None] if image.shape[-1] == 1 else np.asarray(picture.convert("RGB"))
            assert np.array_equal(image, expected), (split, mine)
            assert data.class_names[int(data.labels[mine])] == names[label], (split, mine)
    assert capsys.readouterr() == ("", "") and not (tmp_path / "cache").exists()


def where(theirs: Any, k: int) -> str:
    """The path of an image, in sets that torchvision lists in the order of the file system."""
    return (
        str(theirs._image_files[k])
        if hasattr(theirs, "_image_files")
        else os.path.join(theirs.all_categories[theirs.index[k][0]], theirs.index[k][1])
    )


def class_names(theirs: Any, name: str) -> Sequence[Any]:
    """What torchvision calls the classes; our names where it has none; Imagenette's folders."""
    own = TABLE[name].class_names
    held = next(
        (
            getattr(theirs, one)
            for one in ("classes", "categories", "all_categories", "_characters", "class_to_idx")
            if hasattr(theirs, one)
        ),
        None,
    )
    return own or (theirs.wnids if name == "imagenette" else list(held or ()))


@pytest.mark.usefixtures("any_sums")
def test_a_split_that_is_not_there_is_told(tmp_path: Path) -> None:
    svhn(Drawn(tmp_path))
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.warns(match="svhn: left out the split test: Dataset not found"):
        train = load("svhn:train", data_root=str(tmp_path))
    assert len(train) == 3
