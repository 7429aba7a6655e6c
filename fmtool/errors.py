"""Errors that users can fix, and warnings about results. The command line prints an error as one line and exits with code 1."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable

MOST_LISTED = 100  # names in a message: timm has 1,300 networks


class FmtoolError(Exception):
    """Anything that the user can fix. The message says what was expected, what was given, and in which file or option.

    debug: also show the traceback on the command line.
    """

    debug = False

    def __str__(self) -> str:
        return printable(" ".join(super().__str__().split()))  # libraries' messages may span several lines


class ArtifactError(FmtoolError):
    """A file is missing, damaged, of another kind, or doesn't belong to the others."""


class DataError(FmtoolError):
    """Images or labels are unavailable, or not what a stage needs."""


class UnlabelledError(DataError):
    """The labels of a split are kept back."""


class ModelError(FmtoolError):
    """A classifier can't be built, loaded or applied to these images."""


class DivergedError(ModelError):
    """Training has made weights that are infinite or NaN, as it would again."""


class UnclassifiedError(ModelError):
    """The network gives images logits that are not finite, as it would again."""


class AttackError(FmtoolError):
    """An attack is unknown, has no such option, or can't run on this classifier."""


class MaskError(FmtoolError):
    """No image is left to fit a mask to, or a mask has the wrong shape."""


class StatisticError(FmtoolError):
    """The rows don't allow this statistic."""


class ProcessError(FmtoolError):
    """Another process of the same job has failed, or differs from this one; what this one has saved stays of use."""


class FmtoolWarning(UserWarning):
    """A result is valid, but its reader should know something about it. The command line prints it as one line."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """The text on one line: file names may contain line breaks and terminal escape codes."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A message for a name that is not in a table, suggesting the closest one."""
    names = sorted(known)
    spelt = {one.lower(): one for one in names}
    near = difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=0.6)
    guess = f" (did you mean {spelt[near[0]]!r}?)" if near else ""
    listed = ", ".join(names) if len(names) <= MOST_LISTED else f"{len(names)}, such as {', '.join(names[:3])}"
    return f"unknown {what} {name!r}{guess}: expected one of {listed}"


def first_line(error: object) -> str:
    """The first line of an error's message that isn't blank, or the name of its type: a bare `assert` has no message."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def warn(message: str) -> None:
    """Warn the reader of a valid result."""
    warnings.warn(FmtoolWarning(message), stacklevel=3)
