"""What histories tell: which files were made from which, and the shell commands that make a file again. Needs no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fmtool.artifacts.history import SHORT, Stage, makers

KINDS = {
    "train-model": "model",
    "import-model": "model",
    "attack": "attack",
    "fit-masks": "masks",
    "class-masks": "class-masks",
    "correlate": "correlation",
    "defend": "defense",
    "merge": "",  # that of its inputs
}
SUFFIXES = {"train": ":train", "test": ":test", "test+train": ":all", "whole": "", "": ""}  # a recorded split -> --data
# (command, kind of input) -> option; other files are arguments
FILE_OPTIONS = {("train-model", "model"): "--from", ("attack", "class-masks"): "--defense"}
DATA_OPTIONS = {"import-model": ("--weights",)}  # of each input that is data, in order; other commands':
USUAL_DATA_OPTIONS = ("--data", "--test-data")
NAMES = {"batch": "--batch-size"}  # recorded option -> option, where it is not --recorded-option
FLAGS = {
    ("compile", False): ["--no-compile"],
    ("row_normalise", True): [],
    ("row_normalise", False): ["--no-row-normalise"],
    ("strict", True): ["--preset", "paper"],  # --permutations overrides the rest of it
}
# command -> recorded options that the command line says otherwise: --recipe stands for four, a checkpoint's name for weights
UNSAID = {
    "train-model": {"optimizer", "schedule", "weight_decay", "rise"},
    "import-model": {"architecture"},
}
NEEDED = {"train-model": "recipe", "import-model": "input_shape"}  # what fmtool did not always record
ATTACK_OPTIONS = {
    "attack",
    "batch_size",
    "device",
    "epsilon",
    "restarts",
    "shard",
}  # all others are the Foolbox class's


def file_name(kind: str, digest: str) -> str:
    """What a file is called in shell commands."""
    return f"{kind}-{digest[:SHORT]}.safetensors"


def commands(history: Sequence[Stage], digest: str, shard: Any = None) -> list[str]:
    """Shell lines that make the file with this digest again, a line a stage, with comments before it.

    Files are named by kind and digest; data must lie in the folder under the recorded name. shard: of the file's header.
    """
    made = _with_shards(makers(history, digest), digest, shard)
    versions = dict.fromkeys(_versions(stage) for stage in history)
    lines = [f"by {'; '.join(versions)}: the same bytes on the same kind of device with as many threads"]
    told: set[str] = set()
    lines = [_comment(line) for line in lines]
    for stage in made.values():
        for entry in stage["inputs"]:
            if entry["digest"] not in {*made, *told}:
                told.add(entry["digest"])
                name = _data_name(entry) if entry["kind"] == "data" else file_name(entry["kind"], entry["digest"])
                lines.append(_comment(f"{entry['kind']} {name}: content {entry['digest']}"))
        reason = _reason(stage)
        if reason:
            lines.append(_comment(f"{stage['command']} can't be given as a command: {reason}"))
        else:
            lines.append(shlex.join(_words(stage, made)))
    return lines


def _with_shards(made: dict[str, Stage], digest: str, shard: Any) -> dict[str, Stage]:
    """Histories leave out which shard a file is, so that all of them make the whole one's: its header says it, and `merge`."""
    parts = {digest: f"{shard.get('number')}/{shard.get('of')}"} if isinstance(shard, dict) else {}
    for stage in made.values():
        numbers = stage["options"].get("shards")
        if isinstance(numbers, list):
            files = (entry["digest"] for entry in stage["inputs"])
            parts |= {
                file: f"{number}/{stage['options'].get('of')}" for file, number in zip(files, numbers, strict=False)
            }
    return {
        key: {**stage, "options": {**stage["options"], "shard": parts[key]}} if key in parts else stage
        for key, stage in made.items()
    }


def _words(stage: Stage, made: Mapping[str, Stage]) -> list[str]:
    """A stage as the words of a command."""
    command, recorded = stage["command"], stage["options"]
    words = ["fmtool", command, *([str(recorded.get("architecture"))] if command == "import-model" else [])]
    data_options = iter(DATA_OPTIONS.get(command, USUAL_DATA_OPTIONS))
    options: list[str] = []
    for entry in stage["inputs"]:
        if entry["kind"] == "data":
            options += [next(data_options, "--data"), _data_name(entry)]
        else:
            name, option = file_name(entry["kind"], entry["digest"]), FILE_OPTIONS.get((command, entry["kind"]))
            options += [option, name] if option else []
            words += [] if option else [name]
    data: Mapping[str, Any] = next((entry for entry in stage["inputs"] if entry["kind"] == "data"), {})
    for key, value in {**{name: data.get(name) for name in ("limit", "size")}, **recorded}.items():
        if not (key in recorded and _said_otherwise(stage, key)):
            options += _option(command, key, data.get(key) if value is None else value)
    options += ["--seed", str(stage["seed"])] if "seed" in stage else []
    options += _permissions(stage, made)
    return [*words, *options, "-o", file_name(_kind(stage), stage["output"])]


def _option(command: str, key: str, value: Any) -> list[str]:
    """A recorded option as words; none for what was not given."""
    if command == "attack" and key not in {*ATTACK_OPTIONS, "limit", "size"}:
        return ["--attack-option", f"{key}={value!r}"]
    if command == "merge":
        return ["--allow-gaps"] if key == "shards" else []
    name = NAMES.get(key, "--" + key.replace("_", "-"))
    if isinstance(value, bool):
        return FLAGS.get((key, value), [name] if value else [])
    if value is None or value == []:
        return []
    return [name, ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def _said_otherwise(stage: Stage, key: str) -> bool:
    command, value = stage["command"], stage["options"][key]
    if command == "train-model" and key == "architecture":
        return any(entry["kind"] == "model" for entry in stage["inputs"])  # it is the base's
    if command == "import-model" and key == "weights":
        return value in ("file", "own")
    return key in UNSAID.get(command, ())


def _permissions(stage: Stage, made: Mapping[str, Stage]) -> list[str]:
    """The options that let somebody's code run, and take files that were made with another model."""
    model = next((entry["digest"] for entry in stage["inputs"] if entry["kind"] == "model"), None)
    if model is None:
        return []
    architecture = str(made[model]["options"].get("architecture")) if model in made else ""
    others = [_model_of(entry["digest"], made) for entry in stage["inputs"] if entry["kind"] not in ("model", "data")]
    other = any(one not in (None, model) for one in others)
    return [*(["--factory", architecture] if ":" in architecture else []), *(["--allow-other-model"] if other else [])]


def _model_of(digest: str, made: Mapping[str, Stage]) -> str | None:
    """The digest of the model that a file was made with."""
    seen: set[str] = set()
    while digest in made and digest not in seen:
        seen.add(digest)
        inputs = made[digest]["inputs"]
        model = next((entry["digest"] for entry in inputs if entry["kind"] == "model"), None)
        if model is not None or not inputs:
            return model
        digest = inputs[0]["digest"]  # merge's, all of one model
    return None


def _reason(stage: Stage) -> str:
    """Why no command line makes this; nothing where one does."""
    command, options = stage["command"], stage["options"]
    if command not in KINDS:
        return "this fmtool has no such command"
    data = [entry for entry in stage["inputs"] if entry["kind"] == "data"]
    if command == "correlate" and data:
        return "it took matrices, of which the history holds no file name and no labels"
    if command in NEEDED and NEEDED[command] not in options:
        return f"made by an fmtool that did not record --{NEEDED[command].replace('_', '-')}"
    if any(not entry.get("name") or entry.get("split", "") not in SUFFIXES for entry in data):
        return "its data have no name"
    if command == "train-model" and not _tested_as_usual(data):
        return "its test images were not chosen as the command line does"
    if data and options.get("limit") is not None:
        return "its limit left out other images than --limit does"
    if any(isinstance(value, str) and "<" in value for value in options.values()):
        return "an option was an object of Python"
    if "," in "".join(map(str, names if isinstance(names := options.get("class_names"), list) else ())):
        return "a class name holds a comma"
    return ""


def _tested_as_usual(data: Sequence[Mapping[str, Any]]) -> bool:
    """train-model takes all of its test images, squeezed as the others; where there is a test split, it is not left out."""
    if len(data) == 1:
        return data[0].get("split") != "train"
    return len(data) == 2 and data[1].get("limit") is None and data[1].get("size") == data[0].get("size")


def _kind(stage: Stage) -> str:
    inputs = [str(entry["kind"]) for entry in stage["inputs"]]
    return KINDS[stage["command"]] or next(iter(inputs), "")


def _data_name(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('name', '')}{SUFFIXES.get(entry.get('split', ''), '')}"


def _versions(stage: Stage) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(stage["versions"].items()))


def _comment(text: str) -> str:
    """One line: a name may hold line breaks."""
    return "# " + " ".join(text.split())
