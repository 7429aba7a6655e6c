"""fmtool train-model."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

import fmtool
from fmtool.cli import options
from fmtool.cli.completion import one_of
from fmtool.cli.session import DataOptions, working
from fmtool.cli.terminal import show_result
from fmtool.errors import DataError, UnlabelledError, warn
from fmtool.models.registry import ARCHITECTURES
from fmtool.stages.options import ARCHITECTURE

if TYPE_CHECKING:
    from fmtool.cli.progress import Bar
    from fmtool.datasets.data import Data

# names of the tables in `training`, which imports torch
RECIPES = {"paper": "A.2 for ResNet-20", "one-cycle": "a short run", "head": "A.2 for new last layers"}
AUGMENTATIONS = {"none": "", "crop": "shifts of up to 4 pixels", "flip-crop": "and mirrored"}
SUMMARY = "Train a classifier, or only its last layer."
EXAMPLE = "fmtool train-model --data digits --architecture resnet8 --recipe one-cycle -o model.safetensors"


# Over 60 lines: its signature declares the command's options.
def train_model(
    data: options.TrainingData,
    output: options.Output,
    test_data: Annotated[
        str | None,
        typer.Option(
            "--test-data",
            metavar="SOURCE",
            autocompletion=options.DATA_NAMES,
            help="Images to report the accuracy on. [default: if --data is a training split, its test split, or val where that has no labels]",
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture",
            metavar="NAME",
            help=f"{', '.join(ARCHITECTURES)}, a torchvision name, timm:NAME, or package.module:factory; not with --from. [default: {ARCHITECTURE}]",
            autocompletion=options.ARCHITECTURE_NAMES,
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Start from this model's weights.")
    ] = None,
    head_only: Annotated[
        bool,
        typer.Option("--head-only", help="Replace the last layer of --from and train only that (Imagenette in A.2)."),
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            autocompletion=one_of(RECIPES),
            help="paper (A.2: 200 epochs of SGD at 0.1, divided by 10 after 1/2 and 3/4, momentum 0.9, weight decay 1e-4), one-cycle (a short run: 15 epochs of SGD, one cycle up to 0.2, momentum 0.9, weight decay 5e-4), head (A.2: 20 epochs of Adam, one cycle up to 0.01). [default: paper; head with --head-only]",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", min=1, help="Override the recipe's number of epochs.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", metavar="RATE", help="Override the recipe's learning rate.")
    ] = None,
    train_batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=2, help="Images per training step. [default: 64]")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            "--augment",
            metavar="NAME",
            autocompletion=one_of(AUGMENTATIONS),
            help="none, crop (shift by up to 4 pixels) or flip-crop (crop and mirror). [default: none with --head-only, which allows no other, and for the data set digits; crop for other data sets of digits, letters or signs, such as mnist; else flip-crop]",
        ),
    ] = None,
    limit: options.Limit = None,
    size: options.Size = None,
    rows: options.Rows = None,
    layout: options.Layout = None,
    pixel_range: options.PixelRange = None,
    classes_by_position: options.ClassesByPosition = False,
    data_root: options.DataRoot = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    compile_: options.Compile = None,
    factory: options.Factory = None,
    factory_option: options.FactoryOption = None,
    restart: options.Restart = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a classifier, or a new last layer for one, and report its test accuracy (sections 4.2 and A.2).

    --limit and --rows apply to the training images only.
    """
    # About half a millisecond, longer than the gaps within a step: alone on 2 cores, training is 1.35 times as fast as with
    # threads that sleep immediately. Read when torch is imported, below.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    with working(output, quiet=quiet, debug=debug) as bar:
        how = DataOptions(size, limit, rows, layout, pixel_range, classes_by_position, data_root)
        images = how.load(data, bar, "train")
        source = test_data
        if source is None and images.split == "train" and len(images.splits) > 1:
            source = data.removesuffix(":train")
        test = None if source is None else _test_images(source, replace(how, limit=None, rows=None), bar, test_data)
        model = fmtool.train_model(
            images,
            test,
            architecture=architecture,
            from_=None if base is None else fmtool.read(base, "model"),
            head_only=head_only,
            recipe=recipe,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=train_batch_size,
            augment=augment,
            seed=seed,
            compile_=compile_,
            execution=fmtool.Execution(
                device=device,
                factory=factory,
                factory_options=options.literals(factory_option, "--factory-option"),
                output=output,
                restart=restart,
                progress=bar,
            ),
        )
    show_result(model, output, form)


def _test_images(source: str, how: DataOptions, bar: Bar, asked: str | None) -> Data | None:
    """The test split; unless it was asked for, `val` or nothing in its place if its labels are kept back."""
    try:
        return how.load(source, bar)
    except UnlabelledError as error:
        if asked is not None:
            raise
        try:
            found = how.load(f"{source}:val", bar)
        except DataError:
            warn(f"{error}; trained without test images")
            return None
        warn(f"{error}; tested on val")
        return found
