"""Merge files of the same stage about different images into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fmtool.artifacts import streaming
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import (
    ATTACK_COMMANDS,
    IMPORTED,
    ROUNDING,
    imported_from,
    namesakes,
    newest,
    options_of,
    plain_options,
    stage,
)
from fmtool.artifacts.rows import check_range, image_names, shard_of
from fmtool.errors import ArtifactError, warn
from fmtool.masks.registry import FOURIER, LABEL
from fmtool.models.foreign_code import own_settings
from fmtool.models.registry import INPUT
from fmtool.stages.heatmap import MEANS, means, summed_filters
from fmtool.stages.inputs import was_compiled
from fmtool.stages.options import DEFAULT_EXECUTION, Execution

# kind -> the stages whose options must agree: the newest of each that is in the history
MAKERS = {
    "attack": ATTACK_COMMANDS,
    "masks": ("fit-masks", *ATTACK_COMMANDS),
    "heatmap": ("heatmap",),
    "class-masks": ("class-masks", *ATTACK_COMMANDS),
}
OF_CLASSES = ("class-masks",)  # kinds whose rows are classes; only shards of one job can be merged
# values implied by files that are older than the option
UNSAID = {"perturb": 0.0, "basis": FOURIER, "layer": INPUT, "objective": LABEL}
LISTED = 5  # missing shards that a message names


# Over 60 lines, a fifth of them signature and docstring.
@own_settings()
def merge(files: Sequence[Artifact], *, allow_gaps: bool = False, execution: Execution = DEFAULT_EXECUTION) -> Artifact:
    """Merge `attack`, `masks` or `heatmap` artifacts of the same model and options, with rows in the order given, or shards of
    `class-masks`.

    Their `data` become one list without duplicates, and `source` is renumbered. The shards of a job become, byte for byte, the
    file that a single run writes; with `allow_gaps` some may be missing. With an output the file is written row by row, and the
    returned artifact reads from it; heat maps, whose means are of all rows, are in memory meanwhile. ArtifactError for files that
    differ in more than their images, or that share an image.
    """
    execution.refuse("merge", "device", "batch_size", "factory", "allow_other_model", "shard", "ranks")
    if not files:
        raise ArtifactError("expected at least one file to merge")
    first = files[0]
    if first.kind not in MAKERS:
        raise ArtifactError(
            f"{first}: expected files of kind {' or '.join(MAKERS)} to merge, got one of kind {first.kind}"
        )
    for other in files[1:]:
        _check_alike(other, first)
    sharded = any("shard" in file.header for file in files)
    gaps = sharded and _check_shards(files, allow_gaps)
    header = {name: value for name, value in first.header.items() if name != "shard"}
    if first.kind in OF_CLASSES:
        if not sharded:
            raise ArtifactError(
                f"{first}: is whole: expected the shards of one job, as 'class-masks --shard' makes them"
            )
        sources = torch.cat([file["classes"] for file in files])
        header["images"] = [sum(counts) for counts in zip(*(file.header["images"] for file in files), strict=True)]
    else:
        _check_apart(files)
        data: list[dict[str, str]] = []
        sources = torch.cat([_renumbered(file, data) for file in files])
        header["data"] = first.header["data"] if sharded else data
        made_by = [made for file in files for made in file.history if made["command"] in MAKERS[first.kind]]
        inputs = [entry for made in made_by for entry in made["inputs"]]
        if again := sorted(namesakes(inputs)):
            warn(f"several files are called {', '.join(again)}: the merged file can't tell their images apart by name")
    if isinstance(header.get("defense"), dict):
        header["defense"] = {**header["defense"], "found": _summed([file.header["defense"]["found"] for file in files])}
    if first.kind == "heatmap":
        header["filters"] = summed_filters([file.header["filters"] for file in files])
    at_once = sharded and not gaps
    history = first.history if at_once else stage("merge", {"--allow-gaps": gaps or None}, None, files)
    columns = {name: [file.rows(name) for file in files] for name in first.tensors if name not in MEANS}
    layout = {name: (rows[0].dtype, (len(sources), *rows[0].shape[1:])) for name, rows in columns.items()}
    if first.kind == "heatmap":
        layout |= {name: (first[name].dtype, tuple(first[name].shape)) for name in MEANS}
    places = _places(files) if sharded else torch.arange(len(sources))
    output, progress = execution.output, execution.progress
    with streaming.new_artifact(output, first.kind, header, history, layout, progress) as merged:
        for name, parts in columns.items():
            if len(parts[0].shape) == 1:
                values = sources if name == "source" and not sharded else torch.cat([rows[:] for rows in parts])
                merged.put(name, values[places.argsort()])
            else:
                every = (rows[number] for rows in parts for number in range(len(rows)))
                for place, row in zip(places.tolist(), every, strict=True):
                    merged.put(name, row, place)
        if first.kind == "heatmap":
            order = places.argsort()
            of_rows = {name: torch.cat([rows[:] for rows in columns[name]])[order] for name in ("wrong", "loss")}
            for name, values in means(of_rows).items():
                merged.put(name, values)
    return merged.artifact


def _check_shards(files: Sequence[Artifact], allow_gaps: bool) -> bool:
    """Check that the files are different shards of one job; return whether some are missing."""
    owner: dict[int, Artifact] = {}
    for file in files:
        if "shard" not in file.header:
            raise ArtifactError(f"{file}: is not a shard, but other files are: merge the shards first")
        number, of, rows = shard_of(file)
        if [of, rows] != list(shard_of(files[0])[1:]) or file.history != files[0].history:
            raise ArtifactError(
                f"{file} and {files[0]} can't be merged: they are not shards of the same job{_other_options(file, files[0])}"
            )
        if number in owner:
            raise ArtifactError(f"{file} and {owner[number]} can't be merged: both are shard {number} of {of}")
        expected = len(range(number - 1, rows, of))
        count = len(file["classes" if file.kind in OF_CLASSES else "key"])
        if count != expected:
            raise ArtifactError(f"{file}: has {count} rows, expected {expected} in shard {number}/{of} of {rows} rows")
        owner[number] = file
    last = min(of, rows)
    gaps = last - len(owner)
    if gaps and not allow_gaps:
        absent = (str(number) for number in range(1, last + 1) if number not in owner)
        some = ", ".join(islice(absent, LISTED)) + (", ..." if gaps > LISTED else "")
        are = "is missing, number" if gaps == 1 else "are missing, numbers"
        raise ArtifactError(f"{gaps} of {of} shards {are} {some}: to merge the others anyway, pass --allow-gaps")
    return gaps > 0


def _other_options(one: Artifact, other: Artifact) -> str:
    """The options of their last stages that differ."""
    options = [file.history[-1]["options"] for file in (one, other)]
    names = [name for name in {**options[0], **options[1]} if options[0].get(name) != options[1].get(name)]
    return f", as {', '.join(names)} differ" if names else ""


def _places(files: Sequence[Artifact]) -> Tensor:
    """(n) int64: the position among all rows of each row of the shards, one file after the other."""
    positions = []
    for file in files:
        number, of, rows = shard_of(file)
        positions.append(torch.arange(number - 1, rows, of))
    return torch.cat(positions).argsort().argsort()


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(count[name] for count in counts) for name in counts[0]}


def _check_alike(other: Artifact, first: Artifact) -> None:
    """Check that kind, model, classes, options and shapes agree; warn if rounding may differ."""
    both = f"{other} and {first} can't be merged"
    if other.kind != first.kind:
        raise ArtifactError(f"{both}: a file of kind {other.kind} and one of kind {first.kind}")
    ours, theirs = (str(file.input_digest("model"))[:12] for file in (other, first))
    if other.input_digest("model") != first.input_digest("model"):
        raise ArtifactError(f"{both}: made with model {ours} and with model {theirs}")
    if other.header["class_names"] != first.header["class_names"]:
        raise ArtifactError(f"{both}: their class names differ")
    for made_by in MAKERS[first.kind]:
        _check_same(_options(other, made_by), _options(first, made_by), both, f" of {made_by}", option=True)
    _check_same(_fields(other), _fields(first), both)
    _check_same(_layout(other), _layout(first), both, " of the tensors")
    imports = [imported_from(file.history) for file in (other, first)]
    if first.header.get("attack") == IMPORTED and all(imports) and not imports[0] & imports[1]:
        warn(f"{other} and {first} were imported from different files without a --name: are both of the same attack?")
    if first.kind == "attack" and was_compiled(other) != was_compiled(first):
        raise ArtifactError(
            f"{both}: one attack ran the compiled network, the other did not, and later stages run what the attack ran: "
            "make both with --compile, or both with --no-compile"
        )
    for made_by in MAKERS[first.kind]:
        one, two = _newest(other, made_by), _newest(first, made_by)
        _check_same(_model_of(one), _model_of(two), both, f" of {made_by}")
        rounding = sorted(name for name in ROUNDING if plain_options(one).get(name) != plain_options(two).get(name))
        if rounding or one["versions"] != two["versions"]:
            what = ", ".join([*rounding, *(["versions"] if one["versions"] != two["versions"] else [])])
            warn(
                f"{other} and {first} were made with different {what} of {made_by}: their rows may be rounded differently"
            )


def _check_same(
    one: Mapping[str, Any], two: Mapping[str, Any], both: str, where: str = "", option: bool = False
) -> None:
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            what = f"option {name!r}" if option else name  # one of the options is named `for`
            raise ArtifactError(f"{both}: {what}{where} is {one.get(name)} and {two.get(name)}")


def _newest(file: Artifact, command: str) -> dict[str, Any]:
    """The newest stage of this command that led to a file."""
    return {"options": {}, "versions": {}, "inputs": [], **(newest(file.history, command) or {})}


def _model_of(stage: Mapping[str, Any]) -> dict[str, str]:
    """The model that a stage read, as it is named in messages."""
    return {entry["kind"]: str(entry["digest"])[:12] for entry in stage["inputs"] if entry["kind"] == "model"}


def _options(file: Artifact, command: str) -> dict[str, Any]:
    return {**UNSAID, **options_of(_newest(file, command))}


def _fields(file: Artifact) -> dict[str, Any]:
    # the attack tells its norm, and class masks count the images of their classes
    left_out = {"data", "shard", *({"attack": ("norm",), "class-masks": ("images",)}.get(file.kind, ()))}
    fields = {**UNSAID, **{name: value for name, value in file.header.items() if name not in left_out}}
    if isinstance(fields.get("defense"), dict):  # the counts are about the images
        against = {name: value for name, value in fields["defense"].items() if name != "found"}
        fields["defense"] = {"basis": UNSAID["basis"], **against}
    if isinstance(fields.get("filters"), dict):  # so are the counts of images that were right
        fields["filters"] = fields["filters"]["radii"]
    return fields


def _layout(file: Artifact) -> dict[str, str]:
    """Tensor -> dtype and shape of a row."""
    parts = {name: file.rows(name) for name in file.tensors}
    return {name: f"{rows.dtype} {list(rows.shape[1:])}" for name, rows in parts.items()}


def _check_apart(files: Sequence[Artifact]) -> None:
    """Check that no image, identified by key and index, occurs twice: later stages could not tell its rows apart."""
    owner: dict[tuple[int, int], Artifact] = {}
    for file in files:
        names = image_names(file["key"], file["index"])
        again = [name for name in names if name in owner]
        if again:
            raise ArtifactError(
                f"{file} and {owner[again[0]]} can't be merged: they share {len(again)} images, the first at index {again[0][1]}"
            )
        owner.update(dict.fromkeys(names, file))
        if len(set(names)) != len(names):
            raise ArtifactError(f"{file}: contains an image twice (key and index are the same)")


def _renumbered(file: Artifact, data: list[dict[str, str]]) -> Tensor:
    """A file's `source` (n), renumbered for the list `data`, to which its new entries are added."""
    entries = file.header["data"]
    check_range(file["source"], len(entries), f"{file}: source")
    data.extend(entry for number, entry in enumerate(entries) if entry not in data and entry not in entries[:number])
    return torch.tensor([data.index(entry) for entry in entries], dtype=torch.int64)[file["source"]]
