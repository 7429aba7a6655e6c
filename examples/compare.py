"""The paper's tables with ours beside them: fmtool's files and `paper.csv` in, a table on the screen and as Markdown and CSV out.

    python compare.py table1 correlation-fmn.safetensors correlation-pgd.safetensors ceiling.safetensors -o table1

The paper's numbers are read from `paper.csv` alone, ours from the files alone. It prints no number that is in neither.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fmtool.artifacts.descriptions import describe
from fmtool.artifacts.format import Description
from fmtool.artifacts.history import plain_options
from fmtool.artifacts.output import write_bytes
from fmtool.attacks.registry import FAILED, WRONG_BEFORE, title
from fmtool.cli.terminal import show
from fmtool.correlation.registry import statistic_kind
from fmtool.errors import FmtoolError
from fmtool.masks.registry import mask_suffix
from fmtool.tables.correlations import changed, is_ceiling
from fmtool.tables.table import Table, as_csv, as_markdown, p_form

Paper = Mapping[str, Mapping[str, float]]  # row -> column -> value, of one table

NULLS = {
    "n": "d", "null mean": ".3f", "null 95 %": ".", "p": ".4f", "adjusted": ".3f",
    "within-class null": ".3f", "within p": ".4f", "within adjusted": ".3f",
}  # fmt: skip
CONTROLS = "controls"  # the table that is made from CSV files of `check-masks`, not from fmtool's own
PAPER_TABLE = {"variants": "table1"}  # tables of ours beside which another of the paper's stands
POOL = 7  # Table 2's
CEILING = {"noise ceiling": ".3f", "ceiling adjusted": ".3f", "ceiling within adjusted": ".3f"}


def paper_table(name: str) -> Paper:
    """The paper's numbers of one table."""
    found: dict[str, dict[str, float]] = {}
    with (Path(__file__).parent / "paper.csv").open() as lines:
        for line in csv.DictReader(lines):
            if line["table"] == name:
                found.setdefault(line["row"], {})[line["column"]] = float(line["value"])
    return found


def models(files: Sequence[Description], paper: Paper) -> Table:
    """A.2: a row a file. A model file says the accuracy that `train-model` found, an attack file that on its clean images."""
    expect(files, "model", "attack")
    rows: list[list[Any]] = []
    for file in files:
        name = network(file)
        known = paper.get(name, {}).get("accuracy")
        if file.kind == "attack":
            status = file.arrays()["status"]
            accuracy: float | None = 100 * float((status != WRONG_BEFORE).mean())
            images = ", ".join(f"{part['name']} {part['split']}".strip() for part in file.header["data"])
            rows.append([name, images, len(status), known, accuracy])
        else:
            accuracy = file.header["accuracy"]
            rows.append([name, "test", None, known, None if accuracy is None else 100 * accuracy])
    return Table("Accuracy (A.2)", {"model": "", "images": "", "n": "d", "paper %": ".2f", "ours %": ".2f"}, rows)


def table1(files: Sequence[Description], paper: Paper) -> Table:
    """A row an attack and statistic."""
    return correlations(files, paper, "Table 1")


def table2(files: Sequence[Description], paper: Paper) -> Table:
    """A row an attack, model and statistic."""
    return correlations(files, paper, "Table 2", pool=POOL)


def correlations(files: Sequence[Description], paper: Paper, name: str, pool: int | None = None) -> Table:
    """Each statistic with its nulls, beside the noise ceiling of its setting, from a file of two fits. pool: Table 2's."""
    expect(files, "correlation")
    ceilings = by(setting, [file for file in files if is_ceiling(file.header["sides"])], "noise ceiling")
    columns = {
        "attack": "", **({"model": ""} if pool else {}), "statistic": "", "paper": ".", "ours": ".", "paper p": ".2f",
        **null_columns(files), **(CEILING if ceilings else {}),
    }  # fmt: skip
    rows: list[list[Any]] = []
    for file in (file for file in files if not is_ceiling(file.header["sides"])):
        attack, model, where = attack_of(file), network(file), place_of(file, pool)
        known = {} if where else paper.get(f"{attack} {model}" if pool else attack, {})
        for one in file.header["statistics"]:
            row: list[Any] = [title(attack) + where, *([model] if pool else [])]
            row.append(statistic_kind(one["name"]).heading)
            row.append(with_std(known.get(one["name"]), known.get(f"{one['name']} std"), ".2f"))
            row.append(with_std(one["observed"], one["details"].get("std"), ".3f"))
            row += [known.get(f"{one['name']} p"), *null_cells(one)]
            rows.append([*row, *(ceiling_cells(ceilings.get(setting(file)), one["name"]) if ceilings else [])])
    notes = [null_note(files), *map(ceiling_note, ceilings.values()), *left_out_notes(files, pool)]
    return Table(f"{name}: correlation of essential and adversarial masks, the paper's and ours", columns, rows, notes)


def table3(files: Sequence[Description], paper: Paper) -> Table:
    """A row an epsilon. The paper's are 1/255 and 3/255, which section 4.6 names, and the 8/255 of its other tables."""
    attacks = [file for file in files if file.kind == "attack"]
    found = [file for file in files if file.kind == "correlation"]
    expect(found, "correlation")
    expect(attacks, "attack")
    ceilings = by(setting, [file for file in found if is_ceiling(file.header["sides"])], "noise ceiling")
    success = {size: success_rate(file) for size, file in by(epsilon, attacks, "attack").items()}
    results = by(epsilon, [file for file in found if not is_ceiling(file.header["sides"])], "correlation")
    idcor = {size: statistic(file, "idcor") for size, file in results.items()}
    if lonely := sorted(idcor.keys() - success.keys()):
        raise FmtoolError(f"expected the attack file of each correlation, got none of epsilon {lonely[0]:.6g}")
    columns = {
        "epsilon": "", "paper success %": ".2f", "ours %": ".2f", "paper IdCor": ".2f", "ours": ".3f", "paper p": ".2f",
        **null_columns(files), **(CEILING if ceilings else {}),
    }  # fmt: skip
    rows: list[list[Any]] = []
    for size in sorted(success):
        name, one = f"{255 * size:g}/255", idcor.get(size)
        row = paper.get(name, {})
        ours = null_cells(one) if one else [None] * len(NULLS)
        theirs = [row.get(column) for column in ("success", "idcor", "idcor p")]
        cells = [theirs[0], success[size], theirs[1], one and one["observed"], theirs[2], *ours]
        beside = ceilings.get(setting(results[size])) if one else None
        rows.append([name, *cells, *(ceiling_cells(beside, "idcor") if ceilings else [])])
    notes = ["success over the images that are right when clean", null_note(found)]
    notes += [*map(ceiling_note, ceilings.values()), *left_out_notes(found)]
    return Table("Table 3: PGD with variable epsilon, the paper's and ours", columns, rows, notes)


def table4(files: Sequence[Description], paper: Paper) -> Table:
    """The defence matrix, a pair of columns a set of masks; then what the paper leaves open."""
    expect(files, "defense")
    if len(files) > 1:
        raise FmtoolError(f"expected one defense file, got {len(files)}")
    header = files[0].header
    names = {"none": "none", **{f"robust {title(name)}": name for name in ("fmn", "pgd", "deepfool")}}
    columns = {"data": ""}
    for column in header["columns"]:
        shown = "no mask" if column == "none" else column
        columns |= {f"{shown}, paper": ".2f", f"{shown}, ours": "."}
    rows: list[list[Any]] = []

    def add(name: str, cells: Sequence[Mapping[str, Any] | None]) -> None:
        row: list[Any] = [title(name)]
        for column, cell in zip(header["columns"], cells, strict=True):
            row += [paper.get(name, {}).get(names.get(column, "")), cell_text(cell)]
        rows.append(row)

    for name, cells in zip(header["rows"], header["matrix"], strict=True):
        add(name, cells)
    if header.get("worst"):
        add("worst of the non-adaptive, per image", header["worst"])
    drop: list[Any] = ["drop in clean accuracy"]
    for column, ours in zip(header["columns"], header["clean_drop"], strict=True):
        known = paper["clean"].get(names.get(column, ""))
        drop += [None if known is None else round(paper["clean"]["none"] - known, 10), f"{ours:.3f}"]
    rows.append(drop)
    note = (
        f"n = {header['n']}; accuracy after the second pass; in brackets, only images also right when clean, out of the same n "
        "(the authors' figure). Cells not marked adaptive are non-adaptive: their attacks knew nothing of the masks"
    )
    return Table(
        "Table 4: clean and adversarial accuracy under robust masks, the paper's and ours", columns, rows, [note]
    )


def variants(files: Sequence[Description], paper: Paper) -> Table:
    """A row a file and statistic: the same images under other options of `fit-masks` or `correlate`."""
    expect(files, "correlation")
    columns = {
        "network": "", "masks": "", "rows scaled": "", "attack": "", "statistic": "", "paper": ".", "ours": ".",
        "images": "d", **null_columns(files),
    }  # fmt: skip
    rows: list[list[Any]] = []
    for file in files:
        attack = attack_of(file)
        known = paper.get(attack, {})
        scaled = "no" if options_of(file, "correlate").get("row_normalise") is False else "yes"
        images = file.header["n"] + file.header["dropped"].get("not preserved on both sides", 0)
        for one in file.header["statistics"]:
            row = [imported(file), fitted_with(file), scaled, title(attack), statistic_kind(one["name"]).heading]
            row.append(with_std(known.get(one["name"]), known.get(f"{one['name']} std"), ".2f"))
            row += [with_std(one["observed"], one["details"].get("std"), ".3f"), images, *null_cells(one)]
            rows.append(row)
    note = "images: with masks on both sides, of which n are preserved on both"
    notes = [note, null_note(files), *left_out_notes(files)]
    return Table("Table 1 with other options", columns, rows, notes)


def controls(files: Sequence[str]) -> Table:
    """A row a CSV table of `check-masks`, with the share of images that each control keeps."""
    columns, rows = {"masks": "", "n": "d"}, []
    for file in files:
        try:
            with open(file, newline="") as lines:
                found = [(row["control"], int(row["n"]), row["preserved %"]) for row in csv.DictReader(lines)]
            # the share is empty for a control of no image, such as the mask of another image of a class with one
            kept = {name: float(share) if share else None for name, _, share in found}
            rows.append((Path(file).stem.removeprefix("check-"), found[0][1], kept))
        except (OSError, LookupError, TypeError, ValueError, csv.Error) as error:
            raise FmtoolError(f"{file}: expected a table of check-masks as CSV: {error!r}") from None
        columns |= dict.fromkeys(kept, ".1f")
    shown = [[name, n, *(kept.get(column) for column in list(columns)[2:])] for name, n, kept in rows]
    return Table("Images that keep their class, %", columns, shown)


TABLES: dict[str, Callable[[Sequence[Description], Paper], Table]] = {
    "models": models, "table1": table1, "table2": table2, "table3": table3, "table4": table4,
    "variants": variants,
}  # fmt: skip


def compare(
    name: Annotated[str, typer.Argument(metavar="TABLE", help=", ".join([*TABLES, CONTROLS]))],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="fmtool's files that the table is made from.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="STEM", help="Writes STEM.md and STEM.csv.")],
    heading: Annotated[str, typer.Option("--heading", help="What the title says of the images.")] = "",
) -> None:
    """Print a table of the paper's with ours beside it, and save it."""
    try:
        if name not in [*TABLES, CONTROLS]:
            raise FmtoolError(f"{name}: expected one of {', '.join([*TABLES, CONTROLS])}")
        if name == CONTROLS:
            table = controls(files)
        else:
            table = TABLES[name]([describe(file) for file in files], paper_table(PAPER_TABLE.get(name, name)))
        if heading:
            table = Table(f"{table.title} ({heading})", table.columns, table.rows, table.notes)
        stem = output.removesuffix(".md").removesuffix(".csv")
        for suffix, text in ((".csv", as_csv(table)), (".md", as_markdown(table))):
            write_bytes(text.encode(), stem + suffix)
    except FmtoolError as error:
        print(f"compare: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    show(table, "table")


def expect(files: Sequence[Description], *kinds: str) -> None:
    """FmtoolError unless there are files, of these kinds alone."""
    for file in files:
        if file.kind not in kinds:
            raise FmtoolError(f"expected files of kind {' or '.join(kinds)}, got one of kind {file.kind}")
    if not files:
        raise FmtoolError(f"expected files of kind {' or '.join(kinds)}, got none")


def by(key: Callable[[Description], Any], files: Sequence[Description], what: str) -> dict[Any, Description]:
    """The files by their setting or epsilon; FmtoolError for two of the same."""
    found: dict[Any, Description] = {}
    for file in files:
        if key(file) in found:
            raise FmtoolError(f"expected one {what} file of {key.__name__} {key(file)}, got two")
        found[key(file)] = file
    return found


def network(file: Description) -> str:
    """The architecture that the history names: a short name, or the last part of a factory's."""
    stages = reversed(file.history)
    names = (plain_options(stage).get("architecture") or next(iter(stage.get("arguments", ())), "") for stage in stages)
    return next((str(name).rpartition(":")[2] for name in names if name), "-")


def setting(file: Description) -> str:
    """The network, by name and digest, lambda, and what sets a correlation apart from the paper's."""
    fit = [f", {name} {one}" for name, one in file.header["sides"][0].items() if name in ("lambda", "model") and one]
    return "".join([network(file), place_of(file), *fit])


def options_of(file: Description, command: str) -> Mapping[str, Any]:
    """The options of the last stage of that command, or none."""
    return next((plain_options(stage) for stage in reversed(file.history) if stage["command"] == command), {})


def imported(file: Description) -> str:
    """The checkpoint that the network was imported from, or its architecture."""
    stages = (stage for stage in file.history if stage["command"] == "import-model")
    names = (one["name"] for stage in stages for one in stage["inputs"] if one.get("name"))
    return next((Path(name).stem for name in names), network(file))


def fitted_with(file: Description) -> str:
    """What sets masks and statistics apart, but for their rows' length: lambda, and what is not the default."""
    given = options_of(file, "fit-masks")
    words = [f"lambda {given['lambda']:g}{', adapted' if given.get('adapt_lambda') else ''}"] if given else []
    words += [
        given[name] for name, usual in (("basis", "fourier"), ("objective", "label")) if given.get(name, usual) != usual
    ]
    return ", ".join([*words, *(word for word in changed(file.header) if not word.startswith("rows"))])


def attack_of(file: Description) -> str:
    """The attack of a correlation's adversarial side."""
    found = {str(side["for"] or "matrices"): str(side["attack"]) for side in file.header["sides"]}
    if found.keys() != {"essential", "adversarial"}:
        raise FmtoolError(f"expected correlations of essential and adversarial masks, got one of {' and '.join(found)}")
    return found["adversarial"]


def place_of(file: Description, pool: int | None = None) -> str:
    """What sets a correlation apart from the paper's: the options of its masks and its own, but for this pooling."""
    words = changed(file.header, pool) + (["not pooled"] if pool and file.header.get("pool") is None else [])
    return "".join([*dict.fromkeys(map(mask_suffix, file.header["sides"])), *(f", {word}" for word in words)])


def epsilon(file: Description) -> float:
    """That of the attack which made the file or led to it."""
    made = (plain_options(stage).get("epsilon") for stage in file.history if stage["command"] == "attack")
    sizes = {float(size) for size in made if size is not None}
    if len(sizes) != 1:
        raise FmtoolError(f"expected files of an attack with one epsilon, got one with {len(sizes)} in its history")
    return sizes.pop()


def success_rate(file: Description) -> float:
    """Per cent of the images that were right before."""
    status = file.arrays()["status"]
    return 100 * float((status[status != WRONG_BEFORE] != FAILED).mean())


def statistic(file: Description, name: str) -> Mapping[str, Any]:
    """One statistic's record."""
    if name not in (found := {one["name"]: one for one in file.header["statistics"]}):
        raise FmtoolError(f"expected correlation files that hold {name}")
    return found[name]  # type: ignore[no-any-return]


def null_columns(files: Sequence[Description]) -> dict[str, str]:
    """`NULLS`, with decimals enough for the smallest possible p."""
    form = p_form(max(file.header["permutations"] for file in files if file.kind == "correlation"))
    return {**NULLS, "p": form, "within p": form}


def null_cells(one: Mapping[str, Any]) -> list[Any]:
    """What `NULLS` heads."""
    null, within = one["null"], one["within_class"] or {}
    return [
        one["n"], null["mean"], f"{null['low']:.3f} to {null['high']:.3f}", null["p"], null["adjusted"],
        within.get("mean"), within.get("p"), within.get("adjusted"),
    ]  # fmt: skip


def null_note(files: Sequence[Description]) -> str:
    """How the nulls were made."""
    counts = sorted({file.header["permutations"] for file in files})
    floors = ", ".join(f"{1 / (1 + count):{p_form(count)}}" for count in counts)
    return (
        f"null: {', '.join(map(str, counts))} permutations of the pairs, p at least {floors}; within: of the pairs of each "
        "class; adjusted: (ours - null mean) / (1 - null mean)"
    )


def left_out_notes(files: Sequence[Description], pool: int | None = None) -> list[str]:
    """Statistics that were not computed, and rows that one can't use, which n counts too."""
    notes = []
    for file in files:
        name = "noise ceiling" if is_ceiling(file.header["sides"]) else title(attack_of(file)) + place_of(file, pool)
        reasons = [(which, f"left out, {why}") for which, why in file.header.get("left_out", {}).items()]
        for one in file.header["statistics"]:
            reasons += [(one["name"], f"{count} {why} left out") for why, count in one["dropped"].items()]
        notes += [f"{name}, {statistic_kind(which).heading}: {reason}" for which, reason in reasons]
    return notes


def ceiling_cells(file: Description | None, name: str) -> list[Any]:
    """What `CEILING` heads, of one statistic."""
    one = next((one for one in file.header["statistics"] if one["name"] == name), None) if file else None
    within = (one and one["within_class"]) or {}
    return [one["observed"], one["null"]["adjusted"], within.get("adjusted")] if one else [None] * len(CEILING)


def ceiling_note(file: Description) -> str:
    """What the ceiling is of, by the names of the images' files or data sets."""
    stages = (stage for stage in file.history if stage["command"] != "train-model")
    inputs = [one for stage in stages for one in stage["inputs"] if one.get("option") == "--data"]
    images = ", ".join(dict.fromkeys(f"{one['name']} {one['split']}".removesuffix("whole").strip() for one in inputs))
    return (
        f"noise ceiling: {file.header['sides'][0]['for']} masks beside themselves, fitted again from a start that differs by "
        f"rounding (n = {file.header['n']}{', ' if images else ''}{images})"
    )


def cell_text(cell: Mapping[str, Any] | None) -> str | None:
    """A cell of the defence matrix."""
    if cell is None:
        return None
    mark = " adaptive" if cell.get("adaptive") else ""
    return f"{cell['accuracy']:.3f} ({cell['accuracy_right_before']:.3f}){mark}"


def with_std(value: float | None, std: float | None, form: str) -> str | None:
    """A mean, with its standard deviation if there is one."""
    return None if value is None else format(value, form) + (f" ± {std:{form}}" if std is not None else "")


if __name__ == "__main__":
    typer.run(compare)
