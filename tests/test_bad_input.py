"""Bad input to any command: exit code 1 or 2, one line that says what was expected and what came, nothing written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, commands_with
from file_slots import ARTIFACT_SLOTS, DAMAGES, OTHER_SLOTS
from forged import forge_all

import fmtool

# MODEL, FMN and files/NAME are good files of the fixture `files`, bad/NAME are of forged.py, OUT is the target.
# name -> command line, what the error must say
CASES = {  # -o OUT is added where it is not written
    # data
    "unknown data set": ("attack MODEL --data digit", r"unknown data set 'digit' .*did you mean 'digits'"),
    "unknown data set to train on": ("train-model --data cifar", r"unknown data set 'cifar'.*'cifar10'"),
    "unknown data set to fit": ("fit-masks MODEL --data digit --for essential", r"did you mean 'digits'"),
    "unknown data set for class masks": ("class-masks MODEL --data digit", r"did you mean 'digits'"),
    "unknown split": ("attack MODEL --data digits:tset", r"unknown split 'tset' .*did you mean 'test'"),
    "a split where there is none": ("attack MODEL --data bad/fine-data.safetensors:test", r"no splits"),
    "labels above the names": ("attack MODEL --data bad/label-high", r"labels range .* to 10"),
    "labels below 0": ("attack MODEL --data bad/label-low", r"labels range from -1"),
    "labels above the model's": ("attack MODEL --data bad/label-nameless", r"labels go up to 10, "),
    "too many labels": ("attack MODEL --data bad/label-many", r"holds 20 images and 40 labels"),
    "labels as floats": ("attack MODEL --data bad/label-float", r"labels are float32 \[20\], expected 20 integers"),
    "labels to train on": ("train-model --data bad/label-high", r"labels range from"),
    "labels to fit": ("fit-masks MODEL --data bad/label-low --for essential", r"labels range"),
    "labels of class masks": ("class-masks MODEL --data bad/label-high", r"labels range"),
    "bright images": ("attack MODEL --data bad/bright", r"pixels range from .* to 1\.01, expected"),
    "dark images": ("fit-masks MODEL --data bad/dark --for essential", r"pixels range from -0\.01"),
    "images that are NaN": ("class-masks MODEL --data bad/nan", r"pixels range .*nan, expected"),
    "bright images to train on": ("train-model --data bad/bright", r"pixels range"),
    "images as int64": ("attack MODEL --data bad/int-images", r"images are int64 from 0 to 255: .* --pixel-range"),
    "images without channels": ("attack MODEL --data bad/flat", r"expected uint8 or float \(n, ch"),
    "names that are no list": ("attack MODEL --data bad/names", r"class_names .* JSON list"),
    "no images": ("attack MODEL --data bad/none", r"holds no images"),
    "images of another shape": ("attack MODEL --data bad/large", r"images are 1x16x16, .* 1x8x8"),
    "another shape to fit": ("fit-masks MODEL --data bad/large --for essential", r"1x16x16, .* 1x8x8"),
    "another shape for class masks": ("class-masks MODEL --data bad/large", r"1x16x16, .* 1x8x8"),
    "another shape to train on": ("train-model --from MODEL --data bad/large", r"1x16x16, .* 1x8x8"),
    "another shape to test on": ("train-model --data digits --epochs 1 --limit 9 --test-data bad/large", r"images are 1x16x16"),
    "another class count": ("attack MODEL --data bad/three", r"has 3 classes, the model 10"),
    "another class count to fit": ("fit-masks MODEL --data bad/three --for essential", r"3 classes"),
    "another class count for class masks": ("class-masks MODEL --data bad/three", r"3 classes"),
    "another class count to train on": ("train-model --from MODEL --data bad/three", r"has 10 cl.* 3"),
    "another class count to test on": ("train-model --data digits --epochs 1 --test-data bad/three", r"has 3 classes"),
    # attack files that say impossible things, made with the right model
    "attack on another shape": ("fit-masks MODEL bad/attack-large --for essential", r"images are 1x16x16"),
    "attack on another shape, class masks": ("class-masks MODEL bad/attack-large", r"images are 1x16x16"),
    "attack on another shape, defended": ("defend MODEL bad/attack-large files/plain", r"images are 1x16x16"),
    "attack with label 10": ("fit-masks MODEL bad/attack-label --for essential", r"labels range from . to 10"),
    "attack with label 10, class masks": ("class-masks MODEL bad/attack-label", r"labels range"),
    "attack with label 10, defended": ("defend MODEL bad/attack-label files/plain", r"labels range"),
    "attack with prediction 10": ("fit-masks MODEL bad/attack-turned --for adversarial", r"_predictions range"),
    "attack with status 3": ("fit-masks MODEL bad/attack-status --for adversarial", r"status range from . to 3"),
    "attack with bright images": ("fit-masks MODEL bad/attack-bright --for adversarial", r"adversarial range"),
    "attack with bright images, class masks": ("class-masks MODEL bad/attack-bright --robust", r"adversarial range"),
    "attack with bright images, defended": ("defend MODEL bad/attack-bright files/plain", r"adversarial range"),
    "attack with NaN": ("fit-masks MODEL bad/attack-nan --for essential", r"images range from .*nan"),
    "attack with two rows of one image": ("defend MODEL FMN bad/attack-twice files/plain", r"an image twice"),
    "attacks that share no image": ("defend MODEL FMN bad/attack-strange files/plain", r"share no image"),
    "attacks that differ in labels": ("defend MODEL FMN bad/attack-relabelled files/plain", r"label the same images differently"),
    "rows that don't match": ("fit-masks MODEL bad/attack-short --for essential", r"tensor .* expected I64 \(n\)"),
    # another model
    "fit-masks with another model": ("fit-masks bad/other-model FMN --for essential", r"made with model .*--allow-other-model"),
    "class-masks with another model": ("class-masks bad/other-model FMN", r"--allow-other-model"),
    "defend with another model": ("defend bad/other-model FMN files/plain", r"fmn.* was made with model"),
    "defend with another model's masks": ("defend MODEL FMN bad/class-masks-other", r"class-masks-other.* was made with model"),
    # nothing left
    "no image right": ("attack MODEL --data bad/all-wrong", r"none of the \d+ images right"),
    "no image right to fit": ("fit-masks MODEL --data bad/all-wrong --for essential", r"no image is left"),
    "no image right for class masks": ("class-masks MODEL --data bad/all-wrong", r"no image"),
    "all wrong before": ("fit-masks MODEL bad/attack-wrong --for essential", r"no image is left: essential"),
    "all wrong before, adversarial": ("fit-masks MODEL bad/attack-wrong --for adversarial", r"no image is left"),
    "all attacks failed": ("fit-masks MODEL bad/attack-failed --for adversarial", r"no image is left: adversarial"),
    "all wrong before, class masks": ("class-masks MODEL bad/attack-wrong", r"no image"),
    "all attacks failed, robust": ("class-masks MODEL bad/attack-failed --robust", r"no .*adversarial image"),
    "no mask preserved": ("correlate bad/masks-lost files/adversarial", r"no image keeps its class"),
    "no mask preserved, first": ("correlate files/essential bad/masks-lost", r"no image keeps its class"),
    # masks
    "masks that share no image": ("correlate files/essential bad/masks-strange", r"share no image"),
    "drawn masks that share no image": ("plot files/essential bad/masks-strange -o OUT.png", r"share no image"),
    "an image that has two masks": ("correlate bad/masks-twice files/adversarial", r"an image twice"),
    "masks of another shape": ("correlate files/essential bad/masks-large --statistics cosine", r"(cosine|columns)"),
    "masks that don't fit their image size": ("correlate files/essential bad/masks-size", r"not fit images of"),
    "masks above 1": ("correlate bad/masks-bright files/adversarial", r"outside \[0, 1\]"),
    "masks that differ in labels": ("correlate bad/masks-relabelled files/adversarial", r"label the same images differently"),
    "class masks of another shape": ("defend MODEL FMN bad/class-masks-large", r"the model takes images of \[8, 8\]"),
    "class masks of class 10": ("defend MODEL FMN bad/class-masks-label", r"classes range from . to 10"),
    "class masks that are NaN": ("defend MODEL FMN bad/class-masks-nan", r"not finite"),
    "drawn masks of another shape": ("plot FMN bad/masks-large -o OUT.png", r"do not fit the shape"),
    "a mask file and a matrix": ("correlate files/essential bad/matrix", r"two mask files or two"),
    "no attack to defend from": ("defend MODEL files/plain", r"at least one attack file .* got 0 and 1"),
    "nothing to defend with": ("defend MODEL FMN", r"at least one attack file .* got 1 and 0"),
    "kinds that can't be drawn together": ("plot files/plain files/fmn -o OUT.png", r"can't draw"),
    # statistics
    "n too small for idcor": ("correlate bad/few bad/few --statistics idcor", r"idcor needs at least"),
    "n too small for svcca": ("correlate bad/one bad/one --statistics svcca", r"svcca needs at least"),
    "n too small for masks": ("correlate bad/masks-two bad/masks-two --statistics idcor", r"idcor needs at least"),
    "matrices of other lengths": ("correlate bad/few bad/matrix", r"as many rows"),
    "a matrix with NaN": ("correlate bad/matrix-nan bad/matrix", r"finite"),
    "unknown statistic": ("correlate bad/matrix bad/matrix --statistics idkor", r"did you mean 'idcor'"),
    "even pool": ("correlate files/essential files/adversarial --pool 2", r"pool"),
    "pool that does not divide": ("correlate files/essential files/adversarial --pool 3", r"pool"),
    "pool below 1": ("correlate files/essential files/adversarial --pool -1", r"pool"),
    "pooled matrices": ("correlate bad/matrix bad/matrix --pool 7", r"--pool applies to mask files only"),
    # attacks
    "unknown attack": ("attack MODEL --data digits --attack pdg", r"unknown attack 'pdg' \(did you mean 'pgd'"),
    "unknown Foolbox class": ("attack MODEL --data digits --attack LinfPDG", r"did you mean 'LinfPGD'"),
    "a base class": ("attack MODEL --data digits --attack Attack", r"unknown attack 'Attack'"),
    "epsilon in words": ("attack MODEL --data digits --attack pgd --epsilon much", r"--epsilon much: expected a number"),
    "epsilon over nothing": ("attack MODEL --data digits --attack pgd --epsilon 1/0", r"--epsilon 1/0: expected"),
    "epsilon 0": ("attack MODEL --data digits --attack pgd --epsilon 0", r"--epsilon 0: expected a distance above 0"),
    "epsilon in grey levels": ("attack MODEL --data digits --attack pgd --epsilon 8", r"--epsilon 8: .*at most 1"),
    "epsilon that is NaN": ("attack MODEL --data digits --attack pgd --epsilon nan", r"--epsilon nan: expected"),
    "epsilon for a smallest perturbation": ("attack MODEL --data digits --epsilon 0.1", r"--epsilon: fmn .* takes no bound"),
    "no epsilon for a Foolbox class": ("attack MODEL --data digits --attack FGSM --limit 9", r"needs an --epsilon"),
    "unknown attack option": ("attack MODEL --data digits --attack-option step=9", r"option of attack fmn 'step' .*steps"),
    "attack option without a value": ("attack MODEL --data digits --attack-option steps", r"expected KEY=VALUE"),
    "attack option in words": ("attack MODEL --data digits --attack-option steps=many", r"expected a number, got 'many'"),
    # fitting
    "negative lambda": ("fit-masks MODEL FMN --for essential --lambda -1", r"--lambda -1.0: expected .* at least 0"),
    "lambda that is NaN": ("fit-masks MODEL FMN --for essential --lambda nan", r"--lambda nan"),
    "negative lambda, class masks": ("class-masks MODEL FMN --lambda -1", r"--lambda -1.0"),
    "least above most steps": ("fit-masks MODEL FMN --for essential --max-steps 5", r"--min-steps 500, --max-steps 5"),
    "least above most steps, class masks": ("class-masks MODEL FMN --max-steps 5", r"--min-steps 500, --max-steps 5"),
    "adversarial masks for data": ("fit-masks MODEL --data digits --for adversarial", r"needs an attack file"),
    "attack and data": ("fit-masks MODEL FMN --data digits --for essential", r"expected either an attack file or --data"),
    "neither attack nor data": ("class-masks MODEL", r"expected either an attack file or --data"),
    "robust masks for data": ("class-masks MODEL --data digits --robust", r"--robust needs an attack file"),
    # models
    "unknown architecture": ("train-model --data digits --architecture resnet9", r"unknown architecture 'resnet9' .*mean"),
    "unknown network": ("import-model resnet88 --weights none", r"unknown architecture 'resnet88' .*did you mean 'resnet"),
    "unknown network of a checkpoint": ("import-model MODEL --architecture rasnet8", r"did you mean 'resnet8'"),
    "a checkpoint of nothing": ("import-model MODEL", r"needs --architecture"),
    "a checkpoint and weights": ("import-model MODEL --architecture resnet8 --weights none", r"--weights goes with"),
    "a name and an architecture": ("import-model resnet8 --architecture resnet8", r"--architecture goes with"),
    "no default weights": ("import-model resnet8 --weights default", r"no default weights"),
    "no weights": ("import-model resnet8", r"resnet8: has no default weights: give --weights FILE or --weights none"),
    "weights of another network": ("import-model MODEL --architecture resnet20", r"don't fit .*missing layer1.1.conv1.weight"),
    "a pickle that is none": ("import-model bad/text.pth --architecture resnet8", r"text.pth: not a checkpoint"),
    "an empty pickle": ("import-model bad/empty.pth --architecture resnet8", r"empty.pth: not a checkpoint"),
    "a truncated pickle": ("import-model bad/truncated.pth --architecture resnet8", r"truncated.pth: not a checkpoint"),
    "a pickle that is missing": ("import-model bad/missing.pth --architecture resnet8", r"missing.pth: no such file"),
    "a factory of no module": ("import-model nowhere.at_all:make", r"factory nowhere.at_all:make: No module named"),
    "no factory in a module": ("import-model math:make", r"factory math:make: .*no attribute 'make'"),
    "a factory of no network": ("import-model builtins:dict", r"returned dict, expected a torch.nn.Module"),
    "mean alone": ("import-model resnet8 --mean 0.5,0.5,0.5", r"--mean and --std go together"),
    "mean of one channel": ("import-model resnet8 --mean 0.5 --std 0.5", r"--mean: 1 numbers for 3 channels"),
    "mean in words": ("import-model resnet8 --mean a,b,c --std 1,1,1", r"--mean a,b,c: expected numbers"),
    "std of 0": ("import-model resnet8 --mean 0,0,0 --std 1,0,1", r"--std 1.0,0.0,1.0: expected numbers above 0"),
    "mean that is NaN": ("import-model resnet8 --mean nan,0,0 --std 1,1,1", r"--mean nan,0.0,0.0: expected"),
    "classes that are not there": ("import-model resnet8 --weights none --keep-classes 0,10", r"--keep-classes: .* from 0 to 9"),
    "a class twice": ("import-model resnet8 --weights none --keep-classes 1,1", r"--keep-classes: expected distinct"),
    "too few names": ("import-model resnet8 --weights none --class-names a,b", r"--class-names: 2 names for 10 classes"),
    "a shape of two numbers": ("import-model resnet8 --input-shape 8,8", r"--input-shape 8,8: expected channels"),
    "a shape of 0": ("import-model resnet8 --input-shape 3,0,8", r"--input-shape 3,0,8"),
    "images that are too small": ("import-model alexnet --weights none --input-shape 3,8,8", r"but does take 3x224x224"),
    "a head of nothing": ("train-model --data digits --head-only", r"--head-only needs --from"),
    "unknown recipe": ("train-model --data digits --recipe papper", r"unknown recipe 'papper' .*'paper'"),
    "unknown augmentation": ("train-model --data digits --augment flip", r"unknown --augment 'flip'"),
    "negative learning rate": ("train-model --data digits --epochs 1 --learning-rate -1", r"--learning-rate -1"),
    "a damaged model header": ("attack bad/model-header --data digits", r"model header is damaged"),
    "a model without its weights": ("attack bad/model-empty --data digits", r"weights don't fit"),
    "a newer schema": ("inspect bad/schema", r"another version of fmtool"),
    # targets
    "a folder that is not there": ("attack MODEL --data digits --limit 9 -o OUT/no/where", r"the folder 'no' does not exist"),
    "a target that is a folder": ("fit-masks MODEL FMN --for essential -o bad/folder", r"is a folder"),
    "a picture of no kind": ("plot files/essential -o OUT.gif", r"expected a name that ends in \.png"),
}  # fmt: skip
EVERYWHERE = {  # a line that works of every command: what is wrong is the option added
    "train-model": "train-model --data digits --architecture resnet8 --epochs 1 --limit 20 -o OUT",
    "import-model": "import-model resnet8 --weights none -o OUT",
    "attack": "attack MODEL --data digits --limit 9 -o OUT",
    "import-attack": "import-attack MODEL --data digits --limit 60 --adversarial FMN -o OUT",
    "fit-masks": "fit-masks MODEL FMN --for essential -o OUT",
    "class-masks": "class-masks MODEL FMN -o OUT",
    "defend": "defend MODEL FMN files/plain -o OUT",
    "correlate": "correlate files/essential files/adversarial -o OUT",
    "check-masks": "check-masks MODEL FMN files/essential",
    "heatmap": "heatmap MODEL --data digits --limit 4 -o OUT",
    "merge": "merge files/essential -o OUT",
    "inspect": "inspect MODEL",
    "verify": "verify MODEL",
    "plot": "plot files/essential -o OUT.png",
    "report": "report files/correlation -o OUT",
    "doctor": "doctor",
}


@pytest.fixture(scope="session")
def bad(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of damaged and forged files."""
    folder = tmp_path_factory.mktemp("bad")
    forge_all(files, folder)
    return folder


@pytest.fixture
def words(files: Path, bad: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of a command line of the tables; {tmp_path}/target is an empty folder for OUT."""
    target = tmp_path / "target"
    target.mkdir()

    def call(line: str, source: str = "") -> list[str]:
        line = line.replace("MODEL", "files/model").replace("FMN", "files/fmn")
        line = line.replace("BAD", f"bad/{source}").replace("OUT", str(target / "result"))
        found = []
        for word in line.split():
            folder, slash, name = word.partition("/")
            if folder in ("files", "bad") and slash:
                file = f"{name}.safetensors" if "." not in name and name != "folder" else name
                word = str({"files": files, "bad": bad}[folder] / file)
            found.append(word)
        return found

    return call


Refused = Callable[..., None]


@pytest.fixture
def refused(run: Run, words: Callable[..., list[str]], bad: Path, tmp_path: Path) -> Refused:
    """Check that a command line is refused with one line that matches, and that nothing is written."""

    def call(line: str, pattern: str, source: str = "") -> None:
        before = sorted(bad.iterdir())
        outcome = run(*words(line, source))
        assert outcome.code == 1, outcome
        assert re.fullmatch(r"fmtool: error: [^\n]+\n", outcome.err), outcome.err
        assert re.search(pattern, outcome.err), outcome.err
        assert outcome.out == ""
        assert list((tmp_path / "target").iterdir()) == [] and sorted(bad.iterdir()) == before

    return call


DAMAGED = [(slot, damage) for slot in [*ARTIFACT_SLOTS, *OTHER_SLOTS] for damage in DAMAGES]
for taken in ("inspect FILE", "plot FILE", "report FILE"):  # they take every kind
    DAMAGED.remove((taken, "correlation"))
for taken in ("correlate A", "correlate B"):  # it takes matrices, though none beside masks
    DAMAGED.remove((taken, "foreign"))


@pytest.mark.slow
@pytest.mark.parametrize(("slot", "damage"), DAMAGED)
def test_damaged_file_is_refused_wherever_a_file_is_taken(slot: str, damage: str, refused: Refused) -> None:
    refused({**ARTIFACT_SLOTS, **OTHER_SLOTS}[slot], DAMAGES[damage], damage)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_one_line(case: str, refused: Refused) -> None:
    line, pattern = CASES[case]
    refused(line if " -o " in line or line.startswith("inspect") else f"{line} -o OUT", pattern)


FORMATS = "'cvs' is not one of 'table', 'json', 'csv', 'markdown'"
CHOICES = {
    **{f"{EVERYWHERE[command]} --format cvs": FORMATS for command in commands_with("--format")},
    "fit-masks MODEL FMN --for adversary -o OUT": "'adversary' is not one of 'essential', 'adversarial'",
    "fit-masks MODEL FMN --for essential --precision half -o OUT": "'half' is not one of 'float32', 'tf32', 'bfloat16'",
    "correlate files/essential files/adversarial --preset papper": "'papper' is not one of 'paper'",
}


@pytest.mark.parametrize("line", CHOICES)
def test_what_is_none_of_the_choices_is_bad_usage(line: str, run: Run, words: Callable[..., list[str]]) -> None:
    outcome = run(*words(line))
    assert outcome.code == 2 and CHOICES[line] in " ".join(outcome.err.split()) and outcome.out == ""


@pytest.mark.parametrize("command", commands_with("--device"))
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_device_that_is_not_there_is_refused_by_every_command(command: str, device: str, refused: Refused) -> None:
    refused(f"{EVERYWHERE[command]} --device {device}", rf"--device {device}: expected auto, cpu, cuda or cuda:N")


@pytest.mark.parametrize("command", commands_with("--debug"))
@pytest.mark.parametrize("added", ["--no-such-option", "--debug=maybe"])
def test_bad_usage_exits_with_2_and_writes_nothing(
    command: str, added: str, run: Run, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    outcome = run(*words(f"{EVERYWHERE[command]} {added}"))
    assert outcome.code == 2 and outcome.out == ""
    assert len(re.findall(r"^Error: ", outcome.err, re.M)) == 1 and "Traceback" not in outcome.err
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "attack MODEL --data digits --limit 0 -o OUT",
        "attack MODEL --data digits --batch-size 0 -o OUT",
        "attack MODEL --data digits --seed -1 -o OUT",
        "fit-masks MODEL FMN --for essential --min-steps -1 -o OUT",
        "class-masks MODEL FMN --max-steps many -o OUT",
        "train-model --data digits --epochs 0 -o OUT",
        "correlate files/essential files/adversarial --permutations 0",
        "plot files/essential --count 0 -o OUT.png",
        "fit-masks MODEL FMN -o OUT",
        "attack MODEL -o OUT",
        "correlate files/essential",
        "defend MODEL",
        "inspect",
    ],
)
def test_numbers_out_of_range_and_missing_arguments_exit_with_2(
    line: str, run: Run, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    outcome = run(*words(line))
    assert outcome.code == 2 and outcome.out == ""
    assert len(re.findall(r"^Error: (Invalid value|Missing)", outcome.err, re.M)) == 1, outcome.err
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize(
    "command", sorted({*commands_with("--output")} - {"correlate", "defend", "heatmap"})
)  # theirs is a table
def test_commands_whose_result_is_a_file_ask_for_a_target(
    command: str, run: Run, words: Callable[..., list[str]]
) -> None:
    outcome = run(*words(EVERYWHERE[command].partition(" -o ")[0]))
    assert outcome.code == 2 and "'--output' / '-o'" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "fit-masks bad/other-model FMN --for essential --min-steps 1 --max-steps 1",
        "class-masks bad/other-model FMN --robust --min-steps 1 --max-steps 1",
        "defend bad/other-model FMN files/plain",
    ],
)
def test_another_model_is_taken_when_the_user_says_so(
    line: str, run: Run, words: Callable[..., list[str]], bad: Path, tmp_path: Path
) -> None:
    outcome = run(*words(f"{line} --allow-other-model -o OUT"))
    assert outcome.code == 0, outcome.err
    made = fmtool.read(str(tmp_path / "target" / "result"))
    assert made.input_digest("model") == fmtool.read(str(bad / "other-model.safetensors")).digest


def test_debug_shows_where_an_error_arose(run: Run, files: Path) -> None:
    outcome = run("inspect", files / "missing.safetensors", "--debug")
    assert outcome.code == 1
    assert outcome.err.startswith("Traceback") and outcome.err.splitlines()[-1].startswith("fmtool: error: ")


@pytest.mark.parametrize("command", commands_with("--seed"))
def test_seeds_that_no_file_could_hold_are_bad_usage(command: str, run: Run) -> None:
    outcome = run(command, "x", "--seed", 2**63)
    assert outcome.code == 2 and "Invalid value for '--seed'" in outcome.err
