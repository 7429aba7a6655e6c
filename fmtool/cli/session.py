"""What commands do around their work: check the target, show progress and warnings, read --data or an attack file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fmtool.artifacts.output import check_target, results_only
from fmtool.errors import FmtoolError, FmtoolWarning

if TYPE_CHECKING:
    from fmtool.artifacts.format import Artifact
    from fmtool.cli.progress import Bar
    from fmtool.datasets.data import Data


@contextmanager
def working(output: str | None, *, quiet: bool, debug: bool) -> Iterator[Bar]:
    """Check the target first, then give a progress bar; warnings, each once, and what networks print, become lines on standard
    error.
    """
    try:
        from fmtool.cli.progress import Bar

        check_target(output)
        with warnings.catch_warnings(), Bar(quiet) as bar, results_only():
            warnings.simplefilter("ignore" if quiet else "always", FmtoolWarning)
            show, told = warnings.showwarning, set[str]()

            def line(message: Warning | str, category: type[Warning], *rest: object, **more: object) -> None:
                if not issubclass(category, FmtoolWarning):
                    show(message, category, *rest, **more)  # type: ignore[arg-type]
                elif str(message) not in told:
                    told.add(str(message))
                    bar.console.print(
                        f"fmtool: warning: {message}", markup=False, highlight=False, emoji=False, soft_wrap=True
                    )

            warnings.showwarning = line
            yield bar
    except FmtoolError as error:
        error.debug = debug
        raise


@dataclass(frozen=True)
class DataOptions:
    """How --data is read: the options of this name, as the command line has them."""

    size: int | None = None
    limit: int | None = None
    rows: str | None = None
    layout: str | None = None
    pixel_range: str | None = None
    classes_by_position: bool = False
    data_root: str | None = None

    def load(self, spec: str, bar: Bar, default: str = "test") -> Data:
        """The images that `spec` names."""
        from fmtool.datasets.arrays import parse_range
        from fmtool.datasets.data import load
        from fmtool.datasets.rows import parse_rows

        return load(
            spec,
            default=default,
            size=self.size,
            limit=self.limit,
            rows=None if self.rows is None else parse_rows(self.rows),
            layout=self.layout,
            pixel_range=None if self.pixel_range is None else parse_range(self.pixel_range),
            classes_by_position=self.classes_by_position,
            data_root=self.data_root,
            progress=bar,
        )

    def refuse(self, options: Sequence[str], why: str) -> None:
        """FmtoolError if one of these options is given where there are no data that it could apply to."""
        for option in options:
            given = getattr(self, option)
            if given is not None and given is not False:
                raise FmtoolError(f"--{option.replace('_', '-')} {why}")


def read_source(
    attack: str | None,
    data: str | None,
    how: DataOptions,
    bar: Bar,
    *,
    default: str = "test",
) -> Artifact | Data:
    """What masks are fitted to: either an attack file, whose images stay in it, or the images of --data.

    how: the way in which --data is read.
    """
    if attack is not None and data is None:
        how.refuse(
            ("size", "rows", "layout", "pixel_range", "classes_by_position", "data_root"),
            "applies to --data; an attack file has its own images",
        )
        from fmtool.artifacts import streaming

        return streaming.read(attack, "attack", progress=bar)
    if attack is None and data is not None:
        return how.load(data, bar, default)
    raise FmtoolError("expected either an attack file or --data SOURCE")
