"""What a result's history holds: every stage that led to it, with its options, seed, versions and inputs. Needs no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fmtool.artifacts.format import Artifact

if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview


def stage(
    command: str, options: Mapping[str, Any], seed: int | None, inputs: Iterable[Artifact | Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The history of a result: the stages that made its inputs, each named once, then this one.

    `options` are those that change the result, with the values in effect; `inputs` are artifacts or, for data,
    {name, split, digest} and what chose its images. A stage whose result is known carries that result's digest as `output`.
    """
    history: list[dict[str, Any]] = []
    named: list[dict[str, Any]] = []
    for source in inputs:
        if isinstance(source, Artifact):
            named.append({"kind": source.kind, "digest": source.digest})
            for entry in [*source.history[:-1], *({**last, "output": source.digest} for last in source.history[-1:])]:
                if entry not in history:
                    history.append(entry)
        else:
            named.append({"kind": "data", **source})
    entry = {"command": command, "options": dict(options), "inputs": named, "versions": versions()}
    if seed is not None:
        entry["seed"] = seed
    return [*history, entry]


def versions() -> dict[str, str]:
    """The installed versions that can change a result's bytes."""
    found = {}
    for name, distribution in (("fmtool", "fourier-masks"), ("torch", "torch"), ("foolbox", "foolbox")):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(distribution)
    return found


Stage = Mapping[str, Any]  # one entry of a history, see `history.stage`
SHORT = 12  # digits of a digest that are shown


def title(entry: Mapping[str, Any]) -> str:
    """A history's input, as tables and trees name it: kind, name and split of data, the digest's first digits, what chose it."""
    words = [str(entry[key]) for key in ("kind", "name", "split") if entry.get(key)]
    chosen = [f"{key} {entry[key]}" for key in ("limit", "size") if entry.get(key) is not None]
    return ", ".join([" ".join([*words, str(entry["digest"])[:SHORT]]), *chosen])


def makers(history: Sequence[Stage], digest: str = "") -> dict[str, Stage]:
    """digest -> the stage that made a file with it; `digest` is that of the file whose history this is."""
    last = [{**history[-1], "output": digest}] if history else []
    return {stage["output"]: stage for stage in [*history[:-1], *last] if "output" in stage}


def sources(inputs: Iterable[Mapping[str, Any]], made: Mapping[str, Stage], names: Mapping[str, str]) -> list[str]:
    """Names of the given files that inputs are, or else were made from; names: digest -> name of a given file."""
    found: dict[str, None] = {}
    ahead, seen = [entry["digest"] for entry in inputs][::-1], set[str]()
    while ahead:
        digest = ahead.pop()
        if digest in names:
            found[names[digest]] = None
        elif digest in made and digest not in seen:  # a forged history may go round
            ahead += [entry["digest"] for entry in made[digest]["inputs"]][::-1]
        seen.add(digest)
    return list(found)


def missing(histories: Mapping[str, Sequence[Stage]], known: Iterable[str]) -> dict[str, list[str]]:
    """Title of an input that no given file provides -> the files that it led to. histories: file -> history; known: digests."""
    provided, found = set(known), dict[str, list[str]]()
    for file, history in histories.items():
        for stage in history:
            for entry in stage["inputs"]:
                if entry["digest"] not in provided and file not in found.setdefault(title(entry), []):
                    found[title(entry)].append(file)
    return found
