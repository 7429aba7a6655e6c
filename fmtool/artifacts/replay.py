"""The shell commands that make a file again, from its history. Needs no torch."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fmtool.artifacts.history import (
    SHORT,
    Stage,
    chosen_by,
    data_argument,
    makers,
    names_of_schema_1,
    namesakes,
    option_words,
    shard_text,
    versions_text,
)
from fmtool.artifacts.output import STREAM
from fmtool.errors import printable


def file_name(kind: str, digest: str) -> str:
    """What a file is called in shell commands."""
    return f"{kind}-{digest[:SHORT]}.safetensors"


def commands(history: Sequence[Stage], kind: str, digest: str, header: Mapping[str, Any]) -> list[str]:
    """Shell lines that make the file of this kind, digest and header again, one per stage, preceded by comments.

    Files are named by kind and digest; data must be in the current folder under the recorded name. If no command line reproduces
    a stage's result, a comment says why.
    """
    made_by = makers(history, digest)
    inputs = [entry for stage in history for entry in stage["inputs"]]
    kinds = {**{entry["digest"]: entry["kind"] for entry in inputs}, digest: kind}
    shards = {**{entry["digest"]: entry.get("shard", "") for entry in inputs}, digest: shard_text(header)}
    several = namesakes(inputs)
    versions = dict.fromkeys(versions_text(stage) for stage in history)
    lines = [
        _comment(f"by {'; '.join(versions)}: the same bytes on the same kind of device with the same number of threads")
    ]
    announced: set[str] = set()
    for output, recorded in made_by.items():
        stage = {**recorded, "inputs": [_apart(entry, several) for entry in recorded["inputs"]]}
        for entry in stage["inputs"]:
            if entry["digest"] not in {*made_by, *announced}:
                announced.add(entry["digest"])
                lines.append(_comment(f"{entry['kind']} {_name(entry)}: content {entry['digest']}"))
        reason = _reason(stage)
        if reason:
            lines.append(_comment(f"{stage['command']} has no equivalent command: {reason}"))
        else:
            shard = ["--shard", shards[output]] if shards[output] else []
            words = [*_words(stage), *shard, *_permission(stage, made_by), "-o", file_name(kinds[output], output)]
            lines.append(" ".join(map(_quoted, words)))
    return lines


def _apart(entry: Mapping[str, Any], several: set[str]) -> Mapping[str, Any]:
    """An input in a folder of its own if others have its name; the history records only the end of a path."""
    if entry["kind"] != "data" or data_argument(entry) not in several:
        return entry
    return {**entry, "name": f"{str(entry['digest'])[:SHORT]}/{entry['name']}"}


def _words(stage: Stage) -> list[str]:
    """A stage as the words of a command, without what depends on its inputs' histories and its output."""
    words = ["fmtool", stage["command"], *stage.get("arguments", ())]
    options: list[str] = []
    for entry in stage["inputs"]:
        option = entry.get("option")
        options += [option, _name(entry)] if option else []
        words += [] if option else [_name(entry)]
    for name, value in {**chosen_by(stage), **stage["options"]}.items():
        options += option_words(name, value)
    return [*words, *options, *(["--seed", str(stage["seed"])] if "seed" in stage else [])]


def _name(entry: Mapping[str, Any]) -> str:
    return data_argument(entry) if entry["kind"] == "data" else file_name(entry["kind"], entry["digest"])


def _permission(stage: Stage, made_by: Mapping[str, Stage]) -> list[str]:
    """--allow-other-model, if an input was made with another model."""
    model = next((entry["digest"] for entry in stage["inputs"] if entry["kind"] == "model"), None)
    others = [
        _model_of(entry["digest"], made_by) for entry in stage["inputs"] if entry["kind"] not in ("model", "data")
    ]
    return ["--allow-other-model"] if model and any(other not in (None, model) for other in others) else []


def _model_of(digest: str, made_by: Mapping[str, Stage]) -> str | None:
    """The digest of the model that a file was made with."""
    seen: set[str] = set()
    while digest in made_by and digest not in seen:
        seen.add(digest)
        inputs = made_by[digest]["inputs"]
        model = next((entry["digest"] for entry in inputs if entry["kind"] == "model"), None)
        if model is not None or not inputs:
            return model
        digest = inputs[0]["digest"]  # all inputs of `merge` come from one model
    return None


def _reason(stage: Stage) -> str:
    """Why no command line reproduces this stage; empty if one does."""
    command, options = stage["command"], stage["options"]
    if names_of_schema_1(stage):
        return (
            "fmtool 0.1 recorded its options, listed above, under other names; make the file again to have its commands"
        )
    data = [entry for entry in stage["inputs"] if entry["kind"] == "data"]
    if command == "correlate" and data:
        return "it read matrices, whose file names and labels the history does not record"
    if any(not entry.get("name") for entry in data):
        return "its data have no name"
    if any(entry.get("name") == STREAM for entry in data):
        return "it read standard input"
    if command == "train-model" and not _tested_as_usual(data):
        return "its test images were not selected the way the command line selects them"
    if data and "--limit" in options:
        return "its limit selected other images than --limit does"
    if any(isinstance(value, str) and (value[:1], value[-1:]) == ("<", ">") for value in _values(options)):
        return "an option was a Python object"
    if any("," in str(name) for value in options.values() if isinstance(value, list) for name in value):
        return "a name in its options contains a comma"
    return ""


def _values(options: Mapping[str, Any]) -> list[Any]:
    """The values of options, those of mappings one by one."""
    return [one for value in options.values() for one in (value.values() if isinstance(value, dict) else [value])]


def _tested_as_usual(data: Sequence[Mapping[str, Any]]) -> bool:
    """The command line uses all test images, resized like the training images, and never omits an existing test split."""
    if len(data) == 1:
        return data[0].get("split") != "train"
    return (
        len(data) == 2
        and data[1].get("limit") is None
        and all(
            data[1].get(name) == data[0].get(name) for name in ("size", "layout", "pixel-range", "classes-by-position")
        )
    )


def _comment(text: str) -> str:
    """One line: a name may hold line breaks, and escape codes."""
    return "# " + printable(" ".join(text.split()))


def _quoted(word: str) -> str:
    """A word for the shell; one that isn't printable as bash, zsh and ksh take it, so that no terminal obeys it."""
    if word.isprintable():
        return shlex.quote(word)
    codes = (
        one if one.isprintable() and one not in "\\'" else "".join(f"\\{byte:03o}" for byte in os.fsencode(one))
        for one in word
    )
    return f"$'{''.join(codes)}'"
