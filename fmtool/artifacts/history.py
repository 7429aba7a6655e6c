"""The history of a result: every stage that led to it, with its options, seed, versions and inputs. Needs no torch."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fmtool.artifacts.format import Artifact, plain

Stage = Mapping[str, Any]  # one entry of a history, as `stage` makes it
Input = Artifact | tuple[str, Artifact] | Mapping[str, Any]
DATA_FIELDS = {
    "kind",
    "option",
    "name",
    "split",
    "digest",
}  # of an input that is data; its other fields selected the images
CHOICE = {"limit", "factory"}  # options that only select images, or allow a model to be loaded
ROUNDING = {"batch_size", "compile", "device"}  # options that change nothing but rounding
IMPORTED = "imported"  # what import-attack calls an attack without a --name
ATTACK_COMMANDS = ("attack", "import-attack")  # that make a file of adversarial images
SHORT = 12  # digits of a digest to show
DISTRIBUTIONS = {"fmtool": "fourier-masks", "torch": "torch", "foolbox": "foolbox"}  # what can change a result's bytes


def stage(
    command: str,
    options: Mapping[str, Any],
    seed: int | None,
    inputs: Iterable[Input],
    *,
    arguments: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The history of a result: the stages that made its inputs, each named once, then this one.

    options: those that change the result, under the command line's names ("--batch-size"), with the values in effect, see
    `option_words`; those that are None are left out, and so are flags that are off. inputs: artifacts; (option, artifact) for
    one that an option such as --from takes; and data as {option, name, split, digest} with the options that selected its images
    (`limit`, `size`). arguments: further positional arguments of the command line. A stage whose result is known records that
    result's digest as `output`.
    """
    history: list[dict[str, Any]] = []
    named: list[dict[str, Any]] = []
    for source in inputs:
        option, given = source if isinstance(source, tuple) else ("", source)
        if isinstance(given, Artifact):
            named.append(_artifact_input(given, option))
            for entry in with_outputs(given.history, given.digest):
                if entry not in history:
                    history.append(entry)
        else:
            named.append({"kind": "data", **given})
    recorded = {name: plain(value) for name, value in options.items() if value is not None}
    newest: dict[str, Any] = {"command": command, "options": recorded, "inputs": named, "versions": versions()}
    if arguments:
        newest["arguments"] = list(arguments)
    if seed is not None:
        newest["seed"] = plain(seed)
    return [*history, newest]


def _artifact_input(artifact: Artifact, option: str) -> dict[str, Any]:
    """All shards share the history of the whole job; which shard a file is, is recorded where it is an input."""
    entry = {"kind": artifact.kind, "digest": artifact.digest}
    shard = shard_text(artifact.header)
    return {**entry, **({"option": option} if option else {}), **({"shard": shard} if shard else {})}


def shard_text(header: Mapping[str, Any]) -> str:
    """The shard that a file is, as --shard takes it; empty for a whole file."""
    shard = header.get("shard")
    return f"{shard.get('number')}/{shard.get('of')}" if isinstance(shard, dict) else ""


def versions() -> dict[str, str]:
    """The installed versions that can change a result's bytes."""
    installed = {}
    for name, distribution in DISTRIBUTIONS.items():
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(distribution)
    return installed


def option_words(name: str, value: Any) -> list[str]:
    """A recorded option as words of the command line: True is a flag, False its --no- form, a list has commas, a mapping
    repeats the option as KEY=VALUE. Options that schema 1 recorded, under Python's names, are one word name=value."""
    if not name.startswith("--"):
        return [f"{name}={value}"]
    if isinstance(value, bool):
        return [name if value else name.replace("--", "--no-", 1)]
    if isinstance(value, dict):
        return [word for key, entry in value.items() for word in (name, f"{key}={entry!r}")]
    return [name, ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def versions_text(stage: Stage) -> str:
    """The versions that a stage records, by name."""
    return ", ".join(f"{name} {number}" for name, number in sorted(stage["versions"].items()))


def options_text(stage: Stage) -> str:
    """A stage's options and seed as the command line takes them, with those that selected the images of its data."""
    options = {**stage["options"], **chosen_by(stage)}
    words = [word for name, value in sorted(options.items()) for word in option_words(name, value)]
    return shlex.join([*words, *(["--seed", str(stage["seed"])] if "seed" in stage else [])])


def chosen_by(stage: Stage) -> dict[str, Any]:
    """The options that selected the images of a stage's data, which are recorded with the data."""
    data: Mapping[str, Any] = next((entry for entry in stage["inputs"] if entry["kind"] == "data"), {})
    return {f"--{name}": value for name, value in _chosen(data).items()}


def _chosen(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What selected the images of an input that is data: option without dashes -> value."""
    return {name: value for name, value in entry.items() if name not in DATA_FIELDS and value is not None}


def names_of_schema_1(stage: Stage) -> bool:
    """Whether the options are recorded under names other than the command line's, as in schema 1."""
    return any(not name.startswith("--") for name in stage["options"])


def plain_options(stage: Stage) -> dict[str, Any]:
    """Options in a form that compares across schemas: names without dashes, mappings flattened."""
    flat: dict[str, Any] = {}
    for name, value in stage["options"].items():
        flat |= value if isinstance(value, dict) else {name.removeprefix("--").replace("-", "_"): value}
    return flat


def newest(history: Sequence[Stage], *commands: str) -> Stage | None:
    """The newest stage of these commands; None if there is none."""
    return next((made for made in reversed(history) if made["command"] in commands), None)


def options_of(made: Stage) -> dict[str, Any]:
    """A stage's options and seed, as far as they decide what it makes of an image."""
    options = {name: value for name, value in plain_options(made).items() if name not in CHOICE | ROUNDING}
    return {**options, "seed": made.get("seed")}


def other_attack(one: Sequence[Stage], two: Sequence[Stage]) -> str:
    """How the newest attacks of two histories differ, as text; empty if they don't, or if one has none."""
    first, second = newest(one, *ATTACK_COMMANDS), newest(two, *ATTACK_COMMANDS)
    if first is None or second is None:
        return ""
    ours, theirs = options_of(first), options_of(second)
    ours["--adversarial"], theirs["--adversarial"] = _imported(one, two), _imported(two, one)
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name} {ours.get(name)} and {theirs.get(name)}" for name in names)


def imported_from(history: Sequence[Stage]) -> set[str]:
    """The first digits of the digests of files that `import-attack` read; parts of one attack may lie in several."""
    inputs = [entry for made in history if made["command"] == "import-attack" for entry in made["inputs"]]
    return {str(entry["digest"])[:SHORT] for entry in inputs if entry.get("option") == "--adversarial"}


def _imported(one: Sequence[Stage], two: Sequence[Stage]) -> str:
    """The files that the attack of one history was imported from; empty if the other's may be the same attack."""
    ours, theirs = imported_from(one), imported_from(two)
    return "" if not theirs or ours & theirs else ", ".join(sorted(ours))


def shares_images(one: Sequence[Stage], two: Sequence[Stage]) -> bool:
    """Whether the newest attacks or class masks of two histories were made from the same images, or seem to be: from one split of
    a source, or from two choices among the images of whole sources of one name, unless --rows chose two ranges. Of attacks that
    were merged, all count.
    """
    return any(_overlap(ours, theirs) for ours in _data_of(one) for theirs in _data_of(two))


def _data_of(history: Sequence[Stage]) -> list[Mapping[str, Any]]:
    made = newest(history, *ATTACK_COMMANDS) or newest(history, "class-masks")
    stages = [] if made is None else _merged_with(made, history)
    return [entry for stage in stages for entry in stage["inputs"] if entry.get("kind") == "data"]


def _merged_with(made: Stage, history: Sequence[Stage]) -> list[Stage]:
    """The stages whose files merges, and merges of merges, joined with the one that this stage made, or this one alone."""
    made_by = makers(history)
    for outermost in (stage for stage in reversed(history) if stage["command"] == "merge"):
        merges, joined, seen = [outermost], list[Stage](), set[str]()  # a forged history may have a cycle
        while merges:
            digests = {str(entry["digest"]) for entry in merges.pop()["inputs"]} - seen
            seen |= digests
            for part in (made_by[digest] for digest in digests if digest in made_by):
                (merges if part["command"] == "merge" else joined).append(part)
        if made["inputs"] in [one["inputs"] for one in joined]:
            return joined
    return [made]


def _overlap(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    if one["digest"] == two["digest"]:
        return True
    splits = [set(str(entry.get("split") or "whole").split("+")) for entry in (one, two)]
    if one.get("name") != two.get("name") or not splits[0] & splits[1]:
        return False
    if splits[0] == {"whole"} and _chosen(one) == _chosen(two):
        return False  # two files of one name, as their digests differ
    ranges = [re.fullmatch(r"(\d+):(\d+)", str(entry.get("rows"))) for entry in (one, two)]
    if splits[0] != splits[1] or not all(ranges):
        return True
    return max(int(one[1]) for one in ranges if one) < min(int(one[2]) for one in ranges if one)


def title(entry: Mapping[str, Any]) -> str:
    """A history's input as tables and trees show it: kind, name and split of data, the digest's first digits, and the
    options that selected its images.
    """
    words = [str(entry[key]) for key in ("kind", "name", "split") if entry.get(key)]
    others = sorted(_chosen(entry)) if entry.get("kind") == "data" else ()
    chosen = [key if entry[key] is True else f"{key} {entry[key]}" for key in others]
    return ", ".join([" ".join([*words, str(entry["digest"])[:SHORT]]), *chosen])


def data_argument(entry: Mapping[str, Any]) -> str:
    """An input that is data as --data takes it: name and, of a source with splits, which of them."""
    name, split = str(entry.get("name", "")), str(entry.get("split", ""))
    if split in ("", "whole"):
        return name
    return f"{name}:{'all' if '+' in split else split}"


def namesakes(inputs: Iterable[Mapping[str, Any]]) -> set[str]:
    """What --data would take for several of these inputs whose contents differ, though the same of their images was chosen."""
    contents: dict[tuple[Any, ...], set[str]] = {}
    for entry in inputs:
        if entry.get("kind") == "data":
            chosen = sorted((name, str(value)) for name, value in _chosen(entry).items())
            contents.setdefault((data_argument(entry), *chosen), set()).add(str(entry["digest"]))
    return {argument for (argument, *_), digests in contents.items() if len(digests) > 1}


def with_outputs(history: Sequence[Stage], digest: str) -> list[dict[str, Any]]:
    """The stages of a file's history, the last one with the file's digest as `output`."""
    return [*map(dict, history[:-1]), *({**last, "output": digest} for last in history[-1:])]


def with_option(history: list[dict[str, Any]], name: str, value: Any) -> list[dict[str, Any]]:
    """The history with another value of an option that its last stage recorded."""
    *earlier, last = history
    return [*earlier, {**last, "options": {**last["options"], name: value}}]


def makers(history: Sequence[Stage], digest: str = "") -> dict[str, Stage]:
    """digest -> the stage that made a file with it; `digest` is that of the file whose history this is."""
    return {stage["output"]: stage for stage in with_outputs(history, digest) if "output" in stage}


def sources(inputs: Iterable[Mapping[str, Any]], made_by: Mapping[str, Stage], names: Mapping[str, str]) -> list[str]:
    """Names of the given files that are these inputs, or that the inputs were made from.

    made_by: digest -> stage; names: digest -> given file.
    """
    given: dict[str, None] = {}
    ahead, seen = [entry["digest"] for entry in inputs][::-1], set[str]()
    while ahead:
        digest = ahead.pop()
        if digest in names:
            given[names[digest]] = None
        elif digest in made_by and digest not in seen:  # a forged history may have a cycle
            ahead += [entry["digest"] for entry in made_by[digest]["inputs"]][::-1]
        seen.add(digest)
    return list(given)


def missing(histories: Mapping[str, Sequence[Stage]], known: Iterable[str]) -> dict[str, list[str]]:
    """Title of each input that no given file provides -> the files made from it. histories: file -> history; known: digests."""
    provided = set(known)
    led_to: dict[str, list[str]] = {}
    for file, history in histories.items():
        for stage in history:
            for entry in stage["inputs"]:
                if entry["digest"] not in provided and file not in led_to.setdefault(title(entry), []):
                    led_to[title(entry)].append(file)
    return led_to
