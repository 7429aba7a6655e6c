"""`examples/compare.py`: the paper's numbers beside ours, each taken from where it belongs."""

from __future__ import annotations

import csv
import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fmtool.artifacts.files import describe, read
from fmtool.artifacts.format import Artifact, Description, serialise
from fmtool.errors import FmtoolError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare", EXAMPLES / "compare.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def null(mean: float) -> dict[str, Any]:
    return {
        "mean": mean,
        "low": mean - 0.1,
        "high": mean + 0.1,
        "p": 0.01,
        "floor": 0.01,
        "adjusted": 0.5,
        "reason": "",
    }


def correlation(name: str, purposes: tuple[str, str], epsilon: float | None = None) -> Description:
    """A correlation file's header with IdCor 0.25 on 7 pairs."""
    one = {
        "name": "idcor",
        "n": 7,
        "observed": 0.25,
        "details": {},
        "dropped": {},
        "null": null(-0.5),
        "within_class": null(0.1),
    }
    header = {
        "statistics": [one], "n": 7, "permutations": 99, "strict": False,
        "sides": [
            {"for": purpose, "attack": name if purpose == "adversarial" else None, "perturb": 1e-7 * place}
            for place, purpose in enumerate(purposes)
        ],
    }  # fmt: skip
    attack = {"command": "attack", "options": {"--attack": name, "--epsilon": epsilon}, "inputs": [], "versions": {}}
    model = {"command": "import-model", "options": {}, "arguments": ["resnet20"], "inputs": [], "versions": {}}
    return Description("correlation", header, [model, attack], "", {}, {})


PAIR = ("essential", "adversarial")


def by_heading(table: Any) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_every_number_of_the_paper_is_in_its_text(shared_data: Path) -> None:
    """The scan lost some points: 0.92 is 092 there."""
    text = (shared_data.parent / "paper.txt").read_text()
    with (EXAMPLES / "paper.csv").open() as lines:
        values = [line["value"] for line in csv.DictReader(lines)]
    assert len(values) > 70
    printed = set(re.findall(r"\d+\.?\d+", text))
    assert {value for value in values if not {value, value.replace(".", "")} & printed} == set()


def test_masks_of_a_layer_and_trimmed_ones_stand_beside_no_number_of_the_paper(compare: ModuleType) -> None:
    plain, at_layer, trimmed = (correlation("fmn", PAIR) for _ in range(3))
    for side in at_layer.header["sides"]:
        side["layer"] = "layer2"
    trimmed.header["trim"] = 0.001
    rows = by_heading(compare.table1([plain, at_layer, trimmed], compare.paper_table("table1")))
    assert [row["attack"] for row in rows] == ["FMN", "FMN, layer2", "FMN, entries above 0.001"]
    assert [row["paper"] for row in rows] == ["0.66", None, None]


def test_table_1_sets_both_side_by_side_and_the_ceiling_beside_them(compare: ModuleType) -> None:
    found = [correlation("fmn", PAIR), correlation("fmn", ("essential", "essential"))]
    (row,) = by_heading(compare.table1(found, compare.paper_table("table1")))
    assert row["paper"] == "0.66" and row["ours"] == "0.250" and row["paper p"] == 0.01
    assert (row["n"], row["null mean"], row["adjusted"], row["within-class null"]) == (7, -0.5, 0.5, 0.1)
    assert (row["noise ceiling"], row["ceiling adjusted"], row["ceiling within adjusted"]) == (0.25, 0.5, 0.5)


def test_what_was_left_out_stands_below_the_table(compare: ModuleType) -> None:
    """Also of the ceiling, whose images are named: they may be others."""
    pair, ceiling = correlation("fmn", PAIR), correlation("fmn", ("essential", "essential"))
    pair.header["left_out"] = {"cca": "every correlation would be 1"}
    ceiling.header["statistics"][0]["dropped"] = {"duplicates": 3}
    ceiling.history[0]["inputs"] = [{"kind": "data", "name": "test.safetensors", "split": "whole", "option": "--data"}]
    trained_on = {"kind": "data", "name": "cifar10", "split": "train", "option": "--data"}
    ceiling.history.insert(0, {"command": "train-model", "options": {}, "inputs": [trained_on], "versions": {}})
    table = compare.table1([pair, ceiling], compare.paper_table("table1"))
    assert table.notes[-3].endswith("(n = 7, test.safetensors)")
    assert table.notes[-2:] == [
        "FMN, CCA: left out, every correlation would be 1",
        "noise ceiling, IdCor: 3 duplicates left out",
    ]
    alone = compare.table1([pair], compare.paper_table("table1"))
    assert not any("ceiling" in column for column in alone.columns)


def test_table_3_sets_the_papers_rows_beside_its_epsilons(compare: ModuleType, files: Path) -> None:
    attacked = read(str(files / "fmn.safetensors"))
    found = []
    for number, share in ((1, 0.7), (2, 0.99), (3, 1.0), (8, 1.0)):
        status = attacked["status"].repeat(10)[:100] * 0
        status[: round(100 * (1 - share))] = 2
        tensors = {name: tensor.repeat(10, *[1] * (tensor.ndim - 1))[:100] for name, tensor in attacked.tensors.items()}
        history = [{"command": "attack", "options": {"--epsilon": number / 255}, "inputs": [], "versions": {}}]
        made = Artifact("attack", attacked.header, {**tensors, "status": status}, history)
        found.append(describe("made", data=serialise(made)[0]))
    found.append(correlation("pgd", PAIR, 8 / 255))
    found.append(correlation("pgd", ("essential", "essential")))
    rows = by_heading(compare.table3(found, compare.paper_table("table3")))
    assert [row["epsilon"] for row in rows] == ["1/255", "2/255", "3/255", "8/255"]
    assert [row["paper success %"] for row in rows] == [68.56, None, 99.78, 100.0]
    assert [row["paper IdCor"] for row in rows] == [0.59, None, 0.53, 0.60]
    assert [row["ours %"] for row in rows] == pytest.approx([70, 99, 100, 100])
    assert rows[3]["ours"] == 0.25 and rows[0]["ours"] is None
    assert [row["noise ceiling"] for row in rows] == [None, None, None, 0.25]  # beside results alone


@pytest.mark.parametrize("kind", ["attack", "correlation", "alone", "ceiling", "two attacks"])
def test_table_3_refuses_what_it_would_leave_out(compare: ModuleType, files: Path, kind: str) -> None:
    stage = {"command": "attack", "options": {"--epsilon": 0.5}, "inputs": [], "versions": {}}
    attack = replace(describe(str(files / "fmn.safetensors")), history=[stage])
    result, ceiling = (
        correlation("pgd", PAIR, 0.5),
        correlation("pgd", ("essential", "essential")),
    )
    given, message = {
        "attack": ([attack, attack, result], "expected one attack file of epsilon 0.5, got two"),
        "correlation": ([attack, result, result], "expected one correlation file of epsilon 0.5, got two"),
        "alone": (
            [attack, result, correlation("pgd", PAIR, 0.25)],
            "expected the attack file of each correlation, got none of epsilon 0.25",
        ),
        "two attacks": (
            [attack, replace(result, history=[*result.history, *correlation("pgd", PAIR, 0.25).history])],
            "expected files of an attack with one epsilon, got one with 2 in its history",
        ),
        "ceiling": ([attack, result, ceiling, ceiling], "expected one noise ceiling file of setting resnet20, got two"),
    }[kind]
    with pytest.raises(FmtoolError, match=message):
        compare.table3(given, compare.paper_table("table3"))


def test_a_network_has_one_noise_ceiling(compare: ModuleType) -> None:
    found = [correlation("fmn", purposes) for purposes in (PAIR, *[("essential", "essential")] * 2)]
    with pytest.raises(FmtoolError, match="expected one noise ceiling file of setting resnet20, got two"):
        compare.table1(found, compare.paper_table("table1"))


def test_a_noise_ceiling_stands_beside_results_of_its_own_setting(compare: ModuleType) -> None:
    plain, trimmed, ceiling = correlation("fmn", PAIR), correlation("fmn", PAIR), correlation("fmn", ("essential",) * 2)
    trimmed.header["trim"] = 0.001
    rows = by_heading(compare.table1([plain, trimmed, ceiling], compare.paper_table("table1")))
    assert [row["noise ceiling"] for row in rows] == [0.25, None]


@pytest.mark.parametrize("name, values", [("model", ("a" * 64, "b" * 64)), ("lambda", (0.5, 0.45))])
def test_each_network_and_lambda_has_a_noise_ceiling_of_its_own(
    compare: ModuleType, name: str, values: tuple[Any, Any]
) -> None:
    found = [correlation("fmn", purposes) for purposes in (PAIR, PAIR, ("essential",) * 2, ("essential",) * 2)]
    for file, value in zip(found, (*values, *values), strict=True):
        for side in file.header["sides"]:
            side[name] = value
    found[3].header["statistics"][0]["observed"] = 0.75
    paper = compare.paper_table("table1")
    assert [row["noise ceiling"] for row in by_heading(compare.table1(found, paper))] == [0.25, 0.75]
    assert [row["noise ceiling"] for row in by_heading(compare.table1(found[:3], paper))] == [0.25, None]
    with pytest.raises(FmtoolError, match=f"setting resnet20, {name} {values[0]}, got two"):
        compare.table1([*found, found[2]], paper)


def test_table_2_is_of_pooled_masks(compare: ModuleType) -> None:
    pooled, whole = correlation("fmn", PAIR), correlation("fmn", PAIR)
    for file in (pooled, whole):
        file.history[0]["arguments"] = ["resnet18"]
    pooled.header["pool"] = 7
    whole.header["left_out"] = {"svcca": "too few rows"}
    table = compare.table2([pooled, whole], compare.paper_table("table2"))
    assert table.notes[-1] == "FMN, not pooled, SVCCA: left out, too few rows"
    rows = by_heading(table)
    assert [(row["attack"], row["paper"]) for row in rows] == [("FMN", "0.63"), ("FMN, not pooled", None)]


@pytest.mark.parametrize("table", ["table1", "variants"])
def test_masks_of_one_purpose_do_not_stand_beside_the_papers_numbers(compare: ModuleType, table: str) -> None:
    """Two attacks, or two fits of an attack's masks from other seeds."""
    two = correlation("fmn", ("adversarial",) * 2)
    two.header["sides"][1]["perturb"] = 0.0
    with pytest.raises(FmtoolError, match="expected correlations of essential and adversarial masks, got one of adv"):
        getattr(compare, table)([two], compare.paper_table("table1"))


def test_small_p_is_not_shown_as_0(compare: ModuleType) -> None:
    one = correlation("fmn", PAIR)
    one.header["permutations"] = 99_999
    table = compare.table1([one], compare.paper_table("table1"))
    assert table.columns["p"] == ".5f" and "p at least 0.00001" in table.notes[0]


def test_variants_are_told_apart_by_their_options(compare: ModuleType) -> None:
    plain, other = (correlation("fmn", PAIR) for _ in range(2))
    of_masks = {"--lambda": 0.25, "--adapt-lambda": True, "--basis": "dct", "--objective": "label"}
    source = {"kind": "data", "name": "scaled-2.safetensors"}
    stages = [
        {"command": "import-model", "options": {}, "arguments": ["resnet20"], "inputs": [source]},
        {"command": "fit-masks", "options": of_masks, "inputs": [], "versions": {}},
        {"command": "correlate", "options": {"--row-normalise": False}, "inputs": [], "versions": {}},
    ]  # fmt: skip
    other = replace(other, history=stages, header={**other.header, "dropped": {"not preserved on both sides": 3}})
    plain = replace(plain, header={**plain.header, "dropped": {}})
    rows = by_heading(compare.variants([plain, other], compare.paper_table("table1")))
    assert [(row["network"], row["masks"], row["rows scaled"]) for row in rows] == [
        ("resnet20", "", "yes"),
        ("scaled-2", "lambda 0.25, adapted, dct", "no"),
    ]
    assert [(row["images"], row["n"], row["paper"]) for row in rows] == [(7, 7, "0.66"), (10, 7, "0.66")]


def test_controls_of_several_files_stand_in_one_table(compare: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "check-dct.csv").write_text("control,n,preserved %\nno filter,20,100.0\nfitted mask,20,90.0\n")
    (tmp_path / "check-haar.csv").write_text("control,n,preserved %\nfitted mask,30,80.0\nrandom places,30,10.0\n")
    compare.compare(
        "controls", [str(tmp_path / f"check-{name}.csv") for name in ("dct", "haar")], str(tmp_path / "out")
    )
    with (tmp_path / "out.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["masks"] for row in rows] == ["dct", "haar"]
    assert [row["n"] for row in rows] == ["20", "30"]
    assert [(row["no filter"], row["fitted mask"], row["random places"]) for row in rows] == [
        ("100.0", "90.0", ""),
        ("", "80.0", "10.0"),
    ]


def test_table_4_pairs_the_columns(compare: ModuleType, files: Path) -> None:
    described = describe(str(files / "defense.safetensors"))
    with pytest.raises(FmtoolError, match="expected one defense file, got 2"):
        compare.table4([described, described], compare.paper_table("table4"))
    rows = by_heading(compare.table4([described], compare.paper_table("table4")))
    clean = rows[0]
    assert clean["no mask, paper"] == 0.92 and clean["robust FMN, paper"] == 0.83 and clean["plain, paper"] is None
    cell = described.header["matrix"][0][1]
    assert clean["robust FMN, ours"].startswith(f"{cell['accuracy']:.3f}")
    drop = rows[-1]
    assert drop["data"] == "drop in clean accuracy" and drop["robust FMN, paper"] == 0.09


def test_models_are_known_by_their_architecture(compare: ModuleType, files: Path) -> None:
    described = [describe(str(files / f"{name}.safetensors")) for name in ("model", "fmn")]
    rows = by_heading(compare.models(described, {"resnet8": {"accuracy": 50.0}}))
    assert [row["paper %"] for row in rows] == [50.0, 50.0]
    assert rows[1]["n"] == 60 and 50 < rows[1]["ours %"] <= 100


def test_it_prints_and_saves(
    compare: ModuleType, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.compare("models", [str(files / "model.safetensors")], str(tmp_path / "models.md"), heading="digits")
    assert "resnet8" in capsys.readouterr().out
    assert "resnet8" in (tmp_path / "models.md").read_text() and "resnet8" in (tmp_path / "models.csv").read_text()
    with pytest.raises(Exception, match="1"):
        compare.compare("table9", [str(files / "model.safetensors")], str(tmp_path / "x"))
    assert "expected one of models" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4", "models", "variants"])
def test_files_of_another_kind_are_one_line(
    compare: ModuleType, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(Exception, match="1"):
        compare.compare(name, [str(files / "plain.safetensors")], str(tmp_path / "x"))
    error = capsys.readouterr().err
    assert error.startswith("compare: expected files of kind") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_other_dimensions_and_thresholds_stand_beside_no_number_of_the_paper(compare: ModuleType) -> None:
    plain, moments, trimmed = (correlation("fmn", PAIR) for _ in range(3))
    moments.header["dimension"], trimmed.header["trim"] = "mom", 0.001
    for one in (plain, moments, trimmed):
        one.header["dropped"] = {}
    rows = by_heading(compare.table1([plain, moments], compare.paper_table("table1")))
    assert [(row["attack"], row["paper"]) for row in rows] == [("FMN", "0.66"), ("FMN, dimensions by mom", None)]
    rows = by_heading(compare.variants([plain, moments, trimmed], compare.paper_table("table1")))
    assert [row["masks"] for row in rows] == ["", "dimensions by mom", "entries above 0.001"]


@pytest.mark.parametrize(
    "content", [None, "a,b\n1,2\n", "control,n,preserved %\n", "control,n,preserved %\nx,many,5\n"]
)
def test_controls_of_something_else_end_in_one_line(compare: ModuleType, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "check-x.csv").write_text(content)
    with pytest.raises(FmtoolError, match=r"check-x\.csv: expected a table of check-masks as CSV"):
        compare.controls([str(tmp_path / "check-x.csv")])


def test_a_correlation_of_matrices_is_refused(compare: ModuleType) -> None:
    found = correlation("fmn", PAIR)
    found.header["sides"] = [{"for": None, "attack": None}] * 2
    with pytest.raises(
        FmtoolError, match="expected correlations of essential and adversarial masks, got one of matrices"
    ):
        compare.table1([found], {})
