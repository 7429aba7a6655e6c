"""The data sets that have a name. Nothing heavy is imported to read this table.

A new one is a function of the folder that the user's data sets lie in (or None) that gives a `Source`, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fmtool.datasets.builtin import digits
from fmtool.datasets.source import Source
from fmtool.datasets.splits import TEST, TRAIN, VAL
from fmtool.datasets.torchvision_sets import BY_FLAG, DIGITS, NONE, THREE, TRAIN_VAL, TWO, OfTorchvision

DATA_ROOT = "FMTOOL_DATA"  # the environment variable in place of --data-root
NO_FLIPS = "crop"  # for digits, letters and signs, which differ when mirrored


@dataclass(frozen=True)
class DataSet:
    """A data set known by name.

    load: returns it, from the folder of the user's data sets if it is there; augment: `train-model`'s default augmentation.
    """

    load: Callable[[Path | None], Source]
    summary: str
    augment: str = "flip-crop"


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CALTECH = "https://data.caltech.edu/records/"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/"
_EMNIST = "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"
_BYTES = "https://openaipublic.azureedge.net/clip/data/"

DATASETS: dict[str, DataSet] = {
    "digits": DataSet(digits, "8x8 handwritten digits, embedded", "none"),
    "cifar10": DataSet(OfTorchvision("CIFAR10", BY_FLAG, ("cifar-10-batches-py", "cifar-10-batches-bin"), "170 MB", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", own=True), "CIFAR-10, 32x32"),
    "cifar100": DataSet(OfTorchvision("CIFAR100", BY_FLAG, ("cifar-100-python", "cifar-100-binary"), "169 MB", "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", own=True), "CIFAR-100, 32x32, 100 classes"),
    "mnist": DataSet(OfTorchvision("MNIST", BY_FLAG, ("MNIST/raw", "mnist"), "12 MB", _MNIST, own=True, class_names=DIGITS), "handwritten digits, 28x28, grey", NO_FLIPS),
    "fashion-mnist": DataSet(OfTorchvision("FashionMNIST", BY_FLAG, ("FashionMNIST/raw", "fashion-mnist"), "30 MB", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", own=True), "articles of clothing, 28x28, grey"),
    "kmnist": DataSet(OfTorchvision("KMNIST", BY_FLAG, ("KMNIST/raw", "kmnist"), "20 MB", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/", own=True), "Japanese characters, 28x28, grey", NO_FLIPS),
    "qmnist": DataSet(OfTorchvision("QMNIST", BY_FLAG, ("QMNIST/raw",), "110 MB", "https://raw.githubusercontent.com/facebookresearch/qmnist/master/", class_names=DIGITS), "MNIST made again, with 60,000 test images", NO_FLIPS),
    **{
        f"emnist-{part}": DataSet(OfTorchvision("EMNIST", {split: {**flag, "split": part} for split, flag in BY_FLAG.items()}, ("EMNIST/raw",), "560 MB", _EMNIST), f"EMNIST's {what}, 28x28, grey, transposed", NO_FLIPS)
        for part, what in {"byclass": "62 digits and letters", "bymerge": "47 digits and letters", "balanced": "47 classes of the same size", "letters": "letters", "digits": "digits", "mnist": "digits as MNIST has them"}.items()
    },
    "svhn": DataSet(OfTorchvision("SVHN", TWO, ("train_32x32.mat", "test_32x32.mat"), "250 MB", "http://ufldl.stanford.edu/housenumbers/", class_names=DIGITS), "house numbers, 32x32", NO_FLIPS),
    "stl10": DataSet(OfTorchvision("STL10", TWO, ("stl10_binary",), "2.6 GB", "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"), "STL-10, 96x96"),
    "usps": DataSet(OfTorchvision("USPS", BY_FLAG, ("usps.bz2", "usps.t.bz2"), "9 MB", "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/", class_names=DIGITS), "digits of postcodes, 16x16, grey", NO_FLIPS),
    "semeion": DataSet(OfTorchvision("SEMEION", NONE, ("semeion.data",), "3 MB", "http://archive.ics.uci.edu/ml/machine-learning-databases/semeion/semeion.data", class_names=DIGITS), "handwritten digits, 16x16, black and white", NO_FLIPS),
    "omniglot": DataSet(OfTorchvision("Omniglot", {TRAIN: {"background": True}, TEST: {"background": False}}, ("omniglot-py",), "18 MB", "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"), "characters of 50 alphabets, 105x105; train and test hold other characters", NO_FLIPS),
    "gtsrb": DataSet(OfTorchvision("GTSRB", TWO, ("gtsrb",), "280 MB", "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/", class_names=tuple(map(str, range(43)))), "43 German traffic signs, mixed sizes", NO_FLIPS),
    "imagenette": DataSet(OfTorchvision("Imagenette", TRAIN_VAL, ("imagenette2",), "1.5 GB", "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz", own=True), "ten classes of ImageNet, mixed sizes"),
    "food101": DataSet(OfTorchvision("Food101", TWO, ("food-101",), "5 GB", "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"), "101 dishes, mixed sizes"),
    "flowers102": DataSet(OfTorchvision("Flowers102", THREE, ("flowers-102",), "350 MB", f"{_OXFORD}flowers/102/", class_names=tuple(map(str, range(1, 103)))), "102 flowers, mixed sizes"),
    "oxford-pets": DataSet(OfTorchvision("OxfordIIITPet", {TRAIN: {"split": "trainval"}, TEST: {"split": "test"}}, ("oxford-iiit-pet",), "800 MB", f"{_OXFORD}pets/"), "37 breeds of cats and dogs, mixed sizes"),
    "fgvc-aircraft": DataSet(OfTorchvision("FGVCAircraft", THREE, ("fgvc-aircraft-2013b",), "2.8 GB", f"{_OXFORD}fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"), "100 variants of aircraft, mixed sizes"),
    "stanford-cars": DataSet(OfTorchvision("StanfordCars", TWO, ("stanford_cars",), "", ""), "196 models of cars, mixed sizes; not downloaded"),
    "dtd": DataSet(OfTorchvision("DTD", THREE, ("dtd",), "600 MB", f"{_OXFORD}dtd/download/dtd-r1.0.1.tar.gz"), "47 textures, mixed sizes"),
    "eurosat": DataSet(OfTorchvision("EuroSAT", NONE, ("eurosat",), "90 MB", "https://huggingface.co/datasets/torchgeo/eurosat"), "land use from satellites, 64x64, ten classes"),
    "caltech101": DataSet(OfTorchvision("Caltech101", NONE, ("caltech101",), "140 MB", f"{_CALTECH}mzrjq-6wc02"), "101 kinds of objects, mixed sizes"),
    "caltech256": DataSet(OfTorchvision("Caltech256", NONE, ("caltech256",), "1.2 GB", f"{_CALTECH}nyy15-4j048"), "257 kinds of objects, mixed sizes"),
    "country211": DataSet(OfTorchvision("Country211", {TRAIN: {"split": "train"}, VAL: {"split": "valid"}, TEST: {"split": "test"}}, ("country211",), "11 GB", f"{_BYTES}country211.tgz"), "photographs from 211 countries, mixed sizes"),
    "rendered-sst2": DataSet(OfTorchvision("RenderedSST2", THREE, ("rendered-sst2",), "130 MB", f"{_BYTES}rendered-sst2.tgz"), "pictures of sentences, good or bad reviews, 448x448", NO_FLIPS),
    "pcam": DataSet(OfTorchvision("PCAM", THREE, ("pcam",), "8 GB", "Google Drive", class_names=("no tumour", "tumour")), "patches of tissue, 96x96; needs h5py and gdown"),
    "sun397": DataSet(OfTorchvision("SUN397", NONE, ("SUN397",), "37 GB", "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz"), "397 scenes, mixed sizes"),
    "places365": DataSet(OfTorchvision("Places365", {TRAIN: {"split": "train-standard", "small": True}, VAL: {"split": "val", "small": True}}, ("categories_places365.txt",), "25 GB", "http://data.csail.mit.edu/places/places365/"), "365 kinds of places, 256x256"),
    "inaturalist": DataSet(OfTorchvision("INaturalist", {TRAIN: {"version": "2021_train_mini"}, VAL: {"version": "2021_valid"}}, ("2021_train_mini", "2021_valid"), "50 GB", "https://ml-inat-competition-datasets.s3.amazonaws.com/2021/"), "10,000 species, mixed sizes"),
    "lfw-people": DataSet(OfTorchvision("LFWPeople", TWO, ("lfw-py",), "", ""), "5,749 people, 250x250; not downloaded"),
}  # fmt: skip
