"""Folders and zips: the images and classes that torchvision's ImageFolder finds, splits, what is left out, damage."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Sources, pixel_key
from PIL import Image
from torchvision.datasets import ImageFolder

from fmtool.datasets.data import load
from fmtool.errors import DataError, FmtoolWarning


def _picture(path: Path, number: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> np.ndarray[Any, Any]:
    """A PNG of random pixels; gives them as (3, h, w) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    return np.array(image.convert("RGB")).transpose(2, 0, 1)


def test_folder_and_zip_with_splits(both: Sources, tmp_path: Path) -> None:
    pictures = {
        name: _picture(tmp_path / "set" / name, number)
        for number, name in enumerate([
            "train/b/2.png", "train/b/10.png", "train/a/x.png", "val/b/1.png", "val/B/1.png", "val/a/é.png", "val/a/z.PNG",
        ])
    }  # fmt: skip
    (tmp_path / "set" / "train" / "a" / "notes.txt").write_text("no image")
    for source in both(tmp_path / "set"):
        test, train, every = load(source), load(f"{source}:train"), load(f"{source}:all")
        assert test.class_names == train.class_names == ("B", "a", "b")  # in byte order, from both splits
        assert test.split == "val" and test.name == Path(source).name
        for data, names in (
            (test, ["val/B/1.png", "val/a/z.PNG", "val/a/é.png", "val/b/1.png"]),
            (train, ["train/a/x.png", "train/b/10.png", "train/b/2.png"]),
        ):
            assert data.images.dtype == torch.uint8
            assert np.array_equal(data.images.numpy(), np.stack([pictures[name] for name in names]))
            assert data.labels.tolist() == ["Bab".index(name.split("/")[1]) for name in names]
            assert data.index.tolist() == list(range(len(names)))
            assert data.key.tolist() == [pixel_key(pictures[name]) for name in names]
        assert torch.equal(every.images, torch.cat([test.images, train.images]))
        assert every.index.tolist() == [0, 1, 2, 3, 0, 1, 2]


def test_folder_and_zip_give_the_same(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["cat/1.png", "dog/1.png", "dog/2.png"]):
        _picture(tmp_path / "set" / name, number)
    folder, archive = map(load, both(tmp_path / "set"))
    assert folder.digest == archive.digest and torch.equal(folder.key, archive.key)
    assert folder.class_names == archive.class_names == ("cat", "dog") and folder.labels.tolist() == [0, 1, 1]
    assert folder.split == "whole"


def test_val_is_a_split_of_its_own_and_stands_in_for_a_missing_test(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["valid/a/1.png", "valid/b/2.png", "Testing/a/1.png", "TRAINING/b/1.png"]):
        _picture(tmp_path / "set" / name, number)
    for source in both(tmp_path / "set"):
        found = {split: load(f"{source}:{split}") for split in ("train", "val", "test", "all")}
        assert {split: len(data) for split, data in found.items()} == {"train": 1, "val": 2, "test": 1, "all": 4}
        assert load(source).digest == found["test"].digest and found["all"].split == "test+val+train"
        assert found["all"].index.tolist() == [0, 0, 1, 0] and found["val"].splits == {"train": 1, "val": 2, "test": 1}
    shutil.rmtree(tmp_path / "set" / "Testing")
    with pytest.warns(FmtoolWarning, match="set: has no test split: using val"):
        assert load(str(tmp_path / "set")).split == "val"
    with pytest.raises(DataError, match="has no split 'test', only train, val"):
        load(f"{tmp_path / 'set'}:test")


def test_source_without_splits_takes_no_suffix(both: Sources, tmp_path: Path) -> None:
    _picture(tmp_path / "set" / "a" / "1.png", 0)
    for source in both(tmp_path / "set"):
        for split in ("train", "test", "all"):
            with pytest.raises(DataError, match=rf"has no splits, expected it without ':{split}'"):
                load(f"{source}:{split}")


def test_path_may_hold_a_colon(tmp_path: Path) -> None:
    _picture(tmp_path / "set:train" / "a" / "1.png", 0)
    assert load(str(tmp_path / "set:train")).split == "whole"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_every_kind_have_three_channels(mode: str, tmp_path: Path) -> None:
    pixels = _picture(tmp_path / "set" / "a" / "1.png", 0, mode=mode)
    assert np.array_equal(load(str(tmp_path / "set")).images[0].numpy(), pixels)


def test_mixed_sizes_need_a_size_and_are_squeezed(both: Sources, tmp_path: Path) -> None:
    _picture(tmp_path / "set" / "a" / "1.png", 0, (6, 5))
    _picture(tmp_path / "set" / "a" / "2.png", 1, (4, 9))
    _picture(tmp_path / "set" / "b" / "3.png", 2, (4, 4))
    for source in both(tmp_path / "set"):
        with pytest.raises(DataError, match=r"mixed sizes \(.*6x5.*\): pass --size"):
            load(source)
        found = load(source, size=4)
        assert found.images.shape == (3, 3, 4, 4)
        for image, name in zip(found.images, ("a/1.png", "a/2.png", "b/3.png"), strict=True):
            expected = Image.open(tmp_path / "set" / name).resize((4, 4), Image.Resampling.BILINEAR)
            assert np.array_equal(image.numpy(), np.array(expected).transpose(2, 0, 1))
        assert found.key.tolist() == [pixel_key(image) for image in found.images.numpy()]
        assert load(source, limit=1).images.shape == (1, 3, 5, 6)  # of one size when there is but one


def test_limit_decodes_only_what_it_takes(both: Sources, tmp_path: Path) -> None:
    _picture(tmp_path / "set" / "a" / "1.png", 0)
    (tmp_path / "set" / "a" / "2.png").write_bytes(b"no image")
    for source in both(tmp_path / "set"):
        assert len(load(source, limit=1)) == 1
        with pytest.raises(DataError, match=r"a/2.png: can't be read as an image"):
            load(source)


def test_what_systems_put_beside_images_is_left_out(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(
        ["train/a/1.png", "val/a/1.png", "train/a/._1.png", "__MACOSX/train/a/1.png", ".x/a/1.png"]
    ):
        _picture(tmp_path / "set" / name, number)
    for source in both(tmp_path / "set"):
        assert len(load(f"{source}:train")) == len(load(source)) == 1


def test_names_that_are_not_unicode_become_printable(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/set/caf\xe9"
    os.makedirs(folder)
    _picture(tmp_path / "1.png", 0)
    shutil.move(tmp_path / "1.png", os.path.join(os.fsdecode(folder), "1.png"))
    (name,) = load(str(tmp_path / "set")).class_names
    assert name == "caf�" and name.encode()


@pytest.mark.parametrize("holding", [[], ["a.png"], ["notes/readme.txt"]])
def test_source_without_images_is_told(holding: list[str], both: Sources, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in holding:
        _picture(tmp_path / "set" / f"{name}.png", 0)
        (tmp_path / "set" / f"{name}.png").rename(tmp_path / "set" / name)
    for source in both(tmp_path / "set"):
        what = "images, but no folders of them" if holding == ["a.png"] else "no images"
        with pytest.raises(DataError, match=f"holds {what}, expected one folder of images per class"):
            load(source)


@pytest.mark.slow
def test_damaged_zip_is_told_wherever_the_damage_is(tmp_path: Path) -> None:
    """Every refusal is one DataError; a change that hits no content may pass."""
    for number in range(3):
        _picture(tmp_path / "set" / "a" / f"{number}.png", number)
    path = Path(shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set"))
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 3):
        for change in (0x55, 0xFF, 0x01):
            path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
            try:
                load(str(path))
            except DataError:
                refused += 1
    assert refused > len(content) / 2  # of as many changes as there are bytes
    path.write_bytes(content[:100])
    with pytest.raises(DataError, match="can't be read as a zip"):
        load(str(path))


def test_real_zip(shared_data: Path) -> None:
    source = str(shared_data / "imagenette224-sample.zip")
    test, train = load(source, limit=20), load(f"{source}:train", limit=10)
    assert test.images.shape == (20, 3, 224, 224) and test.labels.tolist() == [k // 2 for k in range(20)]
    assert test.index.tolist() == [40 * (k // 2) + k % 2 for k in range(20)]
    assert train.index.tolist() == [60 * k for k in range(10)] and train.class_names[9] == "n03888257"


# As torchvision reads them -------------------------------------------------------------------------------------------


def _as_torchvision(folder: Path) -> None:
    """The same classes, labels and pixels in the same order."""
    theirs, ours = ImageFolder(str(folder)), load(str(folder))
    assert list(ours.class_names) == theirs.classes and ours.labels.tolist() == theirs.targets
    assert len(ours) == len(theirs) > 0
    for image, (picture, _) in zip(ours.images, theirs, strict=True):
        assert np.array_equal(image.numpy(), np.array(picture).transpose(2, 0, 1))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for number, name in enumerate(["cat/1.png", "cat/2.PNG", "dog/1.png", "owl/a b/1.png", "owl/a/x.png", "owl/a.png"]):
        _picture(tmp_path / "store" / name, number)
    return tmp_path / "store"


def test_nested_folders_and_upper_case_suffixes(store: Path) -> None:
    _as_torchvision(store)


def test_links_to_folders_and_files_are_followed(store: Path, tmp_path: Path) -> None:
    (tmp_path / "links" / "dog").mkdir(parents=True)
    (tmp_path / "links" / "owl").symlink_to(store / "owl")
    (tmp_path / "links" / "dog" / "first.png").symlink_to(store / "dog" / "1.png")
    (tmp_path / "all").symlink_to(tmp_path / "links")
    _as_torchvision(tmp_path / "links")
    _as_torchvision(tmp_path / "all")


def test_links_back_and_to_nowhere_are_counted(store: Path) -> None:
    (store / "owl" / "again").symlink_to(store)
    (store / "dog" / "gone.png").symlink_to(store / "nowhere.png")
    (store / "self").symlink_to("self")
    with pytest.warns(FmtoolWarning) as told:
        found = load(str(store))
    assert len(found) == 6 and found.left_out == (
        "links back to a folder that they lie in: 1 (owl/again)",
        "links that lead nowhere: 2 (dog/gone.png, self)",
    )
    assert [str(one.message) for one in told] == [f"{store}: left out {line}" for line in found.left_out]


@pytest.mark.parametrize("where", ["", "train/"])
def test_an_empty_class_is_an_error_with_its_name(where: str, both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["cat/1.png", "owl/1.png"]):
        _picture(tmp_path / "set" / f"{where}{name}", number)
    (tmp_path / "set" / f"{where}dog").mkdir()
    (tmp_path / "set" / f"{where}dog" / "1.gif").write_bytes(b"")
    for source in both(tmp_path / "set"):
        with pytest.raises(DataError, match=f"the class folder {where}dog holds no images"):
            load(source, default="train")


def test_whatever_is_left_out_is_counted(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["a/1.png", "a/2.png", "b/1.png", "loose.png", "a/.hidden.png", "a/._1.png"]):
        _picture(tmp_path / "set" / name, number)
    for name in ("README.md", "a/list.txt", "b/x.gif", "b/noend", ".DS_Store", "a/Thumbs.db", "b/desktop.ini"):
        (tmp_path / "set" / name).write_text("")
    for source in both(tmp_path / "set"):
        with pytest.warns(FmtoolWarning) as told:
            found = load(source)
        assert len(found) == 3 and found.class_names == ("a", "b")
        assert [str(one.message).partition("left out ")[2] for one in told] == [
            "files that aren't images: 4 (.gif 1, .md 1, .txt 1, without suffix 1)",
            "images that lie in no class's folder: 1 (loose.png)",
        ]


def test_pipes_among_the_images_are_counted_and_never_waited_for(tmp_path: Path) -> None:
    _picture(tmp_path / "set" / "a" / "1.png", 0)
    os.mkfifo(tmp_path / "set" / "a" / "2.png")
    with pytest.warns(FmtoolWarning, match=r"entries that aren't regular files: 1 \(a/2.png\)"):
        assert len(load(str(tmp_path / "set"))) == 1


@pytest.mark.parametrize("around", ["mnist/", "data/mnist/"])
def test_a_folder_around_everything_is_stepped_into(around: str, both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["0/1.png", "1/1.png"]):
        _picture(tmp_path / "flat" / f"{around}{name}", number)
        _picture(tmp_path / "split" / f"{around}Train/{name}", number)
    for source in both(tmp_path / "flat"):
        assert load(source).class_names == ("0", "1") and load(source).split == "whole"
    for source in both(tmp_path / "split"):
        assert load(f"{source}:train").class_names == ("0", "1")


def test_one_class_is_no_folder_around_everything(both: Sources, tmp_path: Path) -> None:
    _picture(tmp_path / "set" / "cat" / "1.png", 0)
    for source in both(tmp_path / "set"):
        assert load(source).class_names == ("cat",)


def test_names_that_are_whole_numbers_are_numbered_so(both: Sources, tmp_path: Path) -> None:
    names = [str(number) for number in range(12)]
    for number, name in enumerate(reversed(names)):
        _picture(tmp_path / "set" / name / "1.png", number)
    for source in both(tmp_path / "set"):
        found = load(source)
        assert found.class_names == tuple(names) and found.labels.tolist() == list(range(12))
        assert found.key[10] == load(source).key[10] and torch.equal(
            found.images[10], found.images[found.labels == 10][0]
        )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train/a/1.png", "val/a/1.png", "extra/a/1.png"],
            "extra is beside the splits train, val but is not a split",
        ),
        (["train/a/1.png", "bus/1.png"], "bus is beside the splits train"),
        (["val/a/1.png", "valid/a/1.png"], "val/? and valid are both the val split"),
        (
            ["training_set/cats/1.png", "training_set/dogs/1.png", "test_set/cats/1.png", "test_set/dogs/1.png"],
            "test_set and training_set seem to be splits: expected test and train, or one of them as --data$",
        ),
        (  # Tiny ImageNet, whose val/images would be a class
            ["train/n01/images/0.JPEG", "train/n02/images/0.JPEG", "val/images/0.JPEG"],
            "val holds class images, which train doesn't: expected the same class folders, or none$",
        ),
        (
            ["train/cat/1.png", "train/dog/1.png", "val/cats/1.png", "val/dogs/1.png"],
            "val holds classes cats, dogs, which train",
        ),
        (
            ["train/1.png", "test/1.png"],
            "test and train hold images themselves, expected one folder of images per class in each",
        ),
    ],
)
def test_layouts_that_would_have_to_be_guessed_are_errors(
    names: list[str], message: str, both: Sources, tmp_path: Path
) -> None:
    for number, name in enumerate(names):
        _picture(tmp_path / "set" / name, number)
    for source in both(tmp_path / "set"):
        with pytest.raises(DataError, match=message):
            load(source)


def test_a_class_that_training_lacks_is_told(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dgo/1.png"]):
        _picture(tmp_path / "set" / name, number)
    for source in both(tmp_path / "set"):
        with pytest.warns(FmtoolWarning, match=r"test holds class dgo, which train doesn't$"):
            assert load(source).class_names == ("cat", "dgo", "dog")


@pytest.mark.parametrize("around", ["", "set of/"])
@pytest.mark.parametrize("more", [[], ["bottle/ground_truth/broken/1.png", "cable/ground_truth/bent/1.png"]])
def test_splits_within_classes_are_an_error(around: str, more: list[str], both: Sources, tmp_path: Path) -> None:
    """MVTec AD, whose training and test images would be one whole."""
    names = ["bottle/train/good/1.png", "bottle/test/broken/1.png", "cable/Train/good/1.png", "cable/test/1.png"]
    for number, name in enumerate([*names, *more]):
        _picture(tmp_path / "set" / f"{around}{name}", number)
    told = (
        r"class folders hold splits \(test, train\) themselves: expected splits that hold classes, as in train/bottle$"
    )
    for source in both(tmp_path / "set"):
        with pytest.raises(DataError, match=told):
            load(source)


@pytest.mark.parametrize("other", ["cable/1.png", "cable/bent/1.png"])
def test_a_folder_within_a_class_may_be_called_train(other: str, both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["bottle/train/1.png", "bottle/test/1.png", other]):
        _picture(tmp_path / "set" / name, number)
    for source in both(tmp_path / "set"):
        assert load(source).class_names == ("bottle", "cable")


def test_a_class_may_be_called_train(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["train/1.png", "bus/1.png", "plane/1.png"]):
        _picture(tmp_path / "set" / name, number)
    for source in both(tmp_path / "set"):
        assert load(source).class_names == ("bus", "plane", "train")


def test_a_split_without_classes_does_not_hinder_the_others(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["train/a/1.png", "val/a/1.png", "test/1.png"]):
        _picture(tmp_path / "set" / name, number)
    for source in both(tmp_path / "set"):
        with pytest.warns(FmtoolWarning, match="images that lie in no class's folder: 1"):
            assert len(load(f"{source}:val")) == 1
        with pytest.raises(DataError, match="has no split 'test', only train, val"):
            load(f"{source}:test")


def test_a_folder_that_can_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _picture(tmp_path / "set" / "a" / "1.png", 0)
    (tmp_path / "set" / "b").mkdir()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="b/: can't be read: Permission denied"):
        load(str(tmp_path / "set"))


def test_backslashes_in_a_zip_are_separators(tmp_path: Path) -> None:
    pictures = {name: _picture(tmp_path / "set" / name, number) for number, name in enumerate(["a/1.png", "b/2.png"])}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in pictures:
            entry = zipfile.ZipInfo("x")
            entry.filename = "set\\" + name.replace("/", "\\")
            archive.writestr(entry, (tmp_path / "set" / name).read_bytes())
    found = load(str(tmp_path / "set.zip"))
    assert found.class_names == ("a", "b") and np.array_equal(found.images.numpy(), np.stack(list(pictures.values())))
