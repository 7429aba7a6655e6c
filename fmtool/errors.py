"""What can go wrong through a user's input. One line of text each; the command line turns them into exit code 1."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable


class FmtoolError(Exception):
    """Anything that the user can mend. The message says what was expected, what came, and which file or option.

    debug: the command line shows the traceback too.
    """

    debug = False

    def __str__(self) -> str:
        return printable(" ".join(super().__str__().split()))  # libraries' own texts may have several lines


class ArtifactError(FmtoolError):
    """A file is missing, damaged, of another kind, or doesn't belong to the others."""


class DataError(FmtoolError):
    """Images or labels can't be had, or are not what a stage needs."""


class ModelError(FmtoolError):
    """A classifier can't be built, loaded or applied to these images."""


class AttackError(FmtoolError):
    """An attack is unknown, takes no such option, or can't run on this classifier."""


class MaskError(FmtoolError):
    """No image is left to fit a mask to, or a mask has the wrong shape."""


class StatisticError(FmtoolError):
    """The rows don't allow this statistic."""


class FmtoolWarning(UserWarning):
    """A result stands, but a reader should know something about it. The command line prints it as one line."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """The text on one line: names of files may hold line breaks, and codes that terminals obey."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that is not in a table, with the nearest one suggested."""
    names = sorted(known)
    spelt = {one.lower(): one for one in names}
    near = difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=0.5)
    guess = f" (did you mean {spelt[near[0]]!r}?)" if near else ""
    return f"unknown {what} {name!r}{guess}: expected one of {', '.join(names)}"


def warn(message: str) -> None:
    """A line for the reader of a result that stands."""
    warnings.warn(FmtoolWarning(message), stacklevel=3)
