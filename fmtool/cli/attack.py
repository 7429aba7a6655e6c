"""fmtool attack."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated

import typer

import fmtool
from fmtool.attacks.registry import ATTACKS
from fmtool.cli import options
from fmtool.cli.completion import one_of
from fmtool.cli.session import DataOptions, working
from fmtool.cli.terminal import show_result
from fmtool.errors import AttackError
from fmtool.runtime import distributed, shards
from fmtool.stages.options import EPSILON, RESTARTS

SUMMARY = "Attack the images that the model classifies correctly."
EXAMPLE = "fmtool attack model.safetensors --data digits --attack pgd --epsilon 0.3 -o pgd.safetensors"


# Over 60 lines: its signature declares the command's options.
def attack(
    model: options.Model,
    data: options.Data,
    output: options.Output,
    name: Annotated[
        str | None,
        typer.Option(
            "--attack",
            metavar="NAME",
            autocompletion=one_of({name: known.foolbox_class for name, known in ATTACKS.items()}),
            help=f"{', '.join(ATTACKS)} (FMN and DeepFool minimise the l-inf perturbation, PGD stays within --epsilon), or the class name of most other Foolbox attacks. [default: fmn; pgd with --defense]",
        ),
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(
            "--epsilon",
            metavar="DISTANCE",
            help=f"Largest distance, in the attack's own norm, for pixels in [0, 1], such as 8/255 for l-inf or 0.5 for l2; fmn and deepfool take none. [default for pgd: {Fraction(EPSILON).limit_denominator(255)}]",
        ),
    ] = None,
    attack_option: Annotated[
        list[str] | None,
        typer.Option(
            "--attack-option",
            metavar="KEY=VALUE",
            help="Argument of the Foolbox class, such as steps=100. May be repeated.",
        ),
    ] = None,
    defense: Annotated[
        str | None,
        typer.Option(
            "--defense",
            metavar="CLASSMASKS",
            help="Attack the two-pass classifier that uses these class masks, with full knowledge of them (section 4.8).",
        ),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(
            "--restarts",
            metavar="N",
            min=1,
            help=f"With --defense: number of random starts; the best one counts. [default: {RESTARTS}]",
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
    batch_size: options.BatchSize = None,
    compile_: options.Compile = None,
    factory: options.Factory = None,
    factory_option: options.FactoryOption = None,
    batch_dependent: options.BatchDependent = False,
    allow_other_model: options.AllowOtherModel = False,
    shard: options.Shard = None,
    restart: options.Restart = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Attack the images that the model classifies correctly, with untargeted attacks from Foolbox (section 4.3).

    Misclassified images are kept in the file and flagged, but not attacked. Success is judged on the float32 image as stored.
    With --defense, PGD first attacks the two-pass classifier (filter by the predicted class's mask, predict again); images that
    withstand this are then attacked through the mask of one class after the other. Predictions and success are those of the
    two-pass classifier. Under torchrun the processes share the images, and the first one writes the file.
    """
    rank, _ = distributed.world()
    with (
        working(output, quiet=quiet or rank > 0, debug=debug) as bar,
        distributed.joined(model, defense) as ranks,
    ):
        attack_options = options.literals(attack_option, "--attack-option")
        how = DataOptions(size, limit, rows, layout, pixel_range, classes_by_position, data_root)
        bound = None if epsilon is None else parse_epsilon(epsilon)
        result = fmtool.attack(
            fmtool.read(model, "model"),
            how.load(data, bar),
            attack=name,
            epsilon=bound,
            attack_options=attack_options,
            defense=None if defense is None else fmtool.read(defense, "class-masks"),
            restarts=restarts,
            compile_=compile_,
            seed=seed,
            execution=fmtool.Execution(
                device=device,
                batch_size=batch_size,
                factory=factory,
                batch_dependent=batch_dependent,
                factory_options=options.literals(factory_option, "--factory-option"),
                allow_other_model=allow_other_model,
                output=output,
                shard=shards.parse_shard(shard),
                restart=restart,
                ranks=ranks,
                progress=bar,
            ),
        )
    if ranks.leads:
        show_result(result, output, form)


def parse_epsilon(text: str) -> float:
    """ "8/255" or "0.03" as a number above 0."""
    try:
        numerator, slash, denominator = text.replace(" ", "").partition("/")  # Fraction would compute 10**99999999
        epsilon = float(numerator) / float(denominator if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise AttackError(f"--epsilon {text}: expected a number or a fraction such as 8/255") from None
    if not 0 < epsilon < math.inf:
        raise AttackError(f"--epsilon {text}: expected a distance above 0, for pixels in [0, 1]")
    return epsilon
