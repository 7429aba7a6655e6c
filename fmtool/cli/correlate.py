"""fmtool correlate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fmtool.cli import options as opt
from fmtool.cli.session import save, working
from fmtool.correlation import STATISTICS
from fmtool.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from fmtool.artifacts import Artifact

EXAMPLE = "fmtool correlate essential.safetensors adversarial.safetensors -o correlation.safetensors"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("correlate", epilog=opt.example(EXAMPLE))(correlate)


def correlate(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Mask file, or any safetensors file with one matrix (n, d); - is standard input."
        ),
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", help="The other side, joined to A by image, or by row for matrices.")
    ],
    output: opt.OptionalOutput = None,
    statistics: Annotated[
        str,
        typer.Option(
            "--statistics", metavar="NAMES", help="; ".join(f"{name}: {text}" for name, text in STATISTICS.items())
        ),
    ] = ",".join(STATISTICS),
    permutations: Annotated[
        int | None, typer.Option("--permutations", metavar="N", min=1, help="Shuffles of each null. [default: 999]")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="paper", help="paper: the authors' 100 permutations and strict inequality."),
    ] = None,
    no_row_normalise: Annotated[
        bool,
        typer.Option(
            "--no-row-normalise", help="IdCor without scaling rows to unit length (the authors' code scales them)."
        ),
    ] = False,
    pool: Annotated[
        int | None,
        typer.Option(
            "--pool", metavar="P", help="Average-pool masks by this odd number first (4.5.2: 7 takes 224x224 to 32x32)."
        ),
    ] = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    form: opt.Format = "table",
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Correlate two sets of masks; every statistic beside its permutation null (sections 3.2 and 4.5, Table 1).

    Statistics of masks are far from 0 by chance, in either direction: read the adjusted value, (observed - null mean) /
    (1 - null mean), and the within-class null, which asks whether it is the image or only its class.
    """
    with working(output, quiet=quiet, debug=debug, form=form) as bar:
        from fmtool.stages.correlate import correlate as run

        (x, labels_x), (y, labels_y) = read_side(a), read_side(b)
        found = run(
            x,
            y,
            labels=labels_x if labels_y is None else labels_y,
            statistics=statistics.split(","),
            permutations=permutations,
            preset=preset,
            row_normalise=not no_row_normalise,
            pool=pool,
            seed=seed,
            device=device,
            progress=bar,
        )
    save(found, output, form)


def read_side(source: str) -> tuple[Artifact | Tensor, Tensor | None]:
    """A mask file, or a foreign file's one matrix (n, d), or column (n), and its `labels` if it has any."""
    from safetensors.torch import load

    from fmtool import artifacts

    data = artifacts.read_bytes(source)
    if artifacts.METADATA_KEY in artifacts.parse_header(data, source).get("__metadata__", {}):
        return artifacts.read(source, "masks", data=data), None
    tensors = load(data)
    labels = tensors.pop("labels", None)
    matrices = {
        name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.ndim in (1, 2)
    }
    if len(matrices) != 1:
        raise ArtifactError(
            f"{source}: expected a mask file, or a file with one float matrix (n, d); it holds {len(matrices)}"
        )
    (matrix,) = matrices.values()
    return (matrix[:, None] if matrix.ndim == 1 else matrix), labels
