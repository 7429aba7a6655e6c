"""Shell completion of option values from the light tables, so that nothing slow is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Complete = Callable[[str], list[tuple[str, str]]]


def one_of(names: Mapping[str, str]) -> Complete:
    """For an option that takes a name; names: name -> what it is, which zsh and fish show beside it."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        return [(name, text) for name, text in names.items() if name.startswith(incomplete)]

    return complete


def some_of(names: Mapping[str, str]) -> Complete:
    """For an option that takes comma-separated names without duplicates."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        before, comma, last = incomplete.rpartition(",")
        left = {name: text for name, text in names.items() if name not in before.split(",")}
        return [(before + comma + name, text) for name, text in one_of(left)(last)]

    return complete
