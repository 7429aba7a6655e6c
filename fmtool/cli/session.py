"""What every command does around its work: progress, warnings, saving, printing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fmtool.artifacts import files
from fmtool.artifacts.output import check_target
from fmtool.errors import FmtoolError, FmtoolWarning

if TYPE_CHECKING:
    from fmtool.artifacts.format import Artifact
    from fmtool.cli.progress import Bar
    from fmtool.datasets.data import Data


@contextmanager
def working(output: str | None, *, quiet: bool, debug: bool) -> Iterator[Bar]:
    """Check the target first, then give a progress bar; warnings become lines on standard error."""
    try:
        from fmtool.cli.progress import Bar

        check_target(output)
        with warnings.catch_warnings(), Bar(quiet) as bar:
            warnings.simplefilter("ignore" if quiet else "always", FmtoolWarning)
            show = warnings.showwarning

            def line(message: Warning | str, category: type[Warning], *rest: object, **more: object) -> None:
                if issubclass(category, FmtoolWarning):
                    bar.console.print(f"fmtool: warning: {message}", markup=False, highlight=False, soft_wrap=True)
                else:
                    show(message, category, *rest, **more)  # type: ignore[arg-type]

            warnings.showwarning = line
            yield bar
    except FmtoolError as error:
        error.debug = debug
        raise


def read_source(
    attack: str | None,
    data: str | None,
    *,
    default: str = "test",
    size: int | None,
    limit: int | None,
    by_rows: bool = False,
) -> Artifact | Data:
    """What masks are fitted to: an attack file, or the images that --data names, one of the two.

    by_rows: leave the attack's tensors in the file.
    """
    from fmtool.datasets.data import load

    if attack is not None and data is None:
        from fmtool.artifacts import streaming

        return streaming.read(attack, "attack") if by_rows else files.read(attack, "attack")
    if attack is None and data is not None:
        return load(data, default=default, size=size, limit=limit)
    raise FmtoolError("expected an attack file or --data SOURCE, one of the two")
