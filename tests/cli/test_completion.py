"""Shell completion: the right words for bash, zsh and fish, soon, and without anything slow."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import get_args

import pytest

from fmtool.attacks.registry import ATTACKS
from fmtool.correlation.registry import DIMENSIONS, STATISTICS
from fmtool.datasets.registry import DATASETS
from fmtool.models.registry import ARCHITECTURES
from fmtool.models.training import AUGMENTATIONS, RECIPES
from fmtool.plotting.registry import FIGURES
from fmtool.tables.table import Format

pytestmark = pytest.mark.processes

SLOW = {"torch", "torchvision", "foolbox", "skdim", "matplotlib", "numba", "sklearn", "scipy", "numpy"}
# words typed so far, the last of them unfinished -> what is offered
ASKED = {
    "attack --attack ": list(ATTACKS),
    "attack --attack d": ["deepfool"],
    "attack --data ": list(DATASETS),
    "fit-masks --data ci": ["cifar10", "cifar100"],
    "train-model --test-data ": list(DATASETS),
    "train-model --architecture ": list(ARCHITECTURES),
    "import-model --architecture resnet2": ["resnet20"],
    "correlate --statistics ": list(STATISTICS),
    "correlate --statistics svcca,c": ["svcca,cosine", "svcca,cca", "svcca,cka"],
    "correlate --dimension ": list(DIMENSIONS),
    "plot --figure ": list(FIGURES),
    "fit-masks --for ": ["essential", "adversarial"],
    "train-model --recipe ": list(RECIPES),
    "train-model --augment ": list(AUGMENTATIONS),
    "correlate --preset ": ["paper"],
    "defend --device ": ["auto", "cpu", "cuda"],
    "inspect --format ": list(get_args(Format)),
    "ver": ["verify"],
}
# as each shell's own completion script asks for them
SHELLS = {
    "bash": lambda words: {"COMP_WORDS": f"fmtool {words}", "COMP_CWORD": str(len(words.split(" ")))},
    "zsh": lambda words: {"_TYPER_COMPLETE_ARGS": f"fmtool {words}"},
    "fish": lambda words: {"_TYPER_COMPLETE_ARGS": f"fmtool {words}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


def complete(shell: str, words: str) -> tuple[list[str], set[str], float]:
    """The words that are offered, the modules that were imported, and the processor's seconds that it took."""
    code = (
        "import sys, atexit; from fmtool.__main__ import main\n"
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)); main()"
    )
    environment = {**os.environ, **SHELLS[shell](words), "_FMTOOL_COMPLETE": f"complete_{shell}"}
    start = _seconds_of_children()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    seconds = _seconds_of_children() - start
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n"), set(done.stderr.split()), seconds


@pytest.mark.parametrize("words", ASKED)
def test_bash_offers_the_names_of_the_tables(words: str) -> None:
    offered, imported, _ = complete("bash", words)
    assert [word for word in offered if word] == ASKED[words]
    assert "fmtool" in imported and imported & SLOW == set()


@pytest.mark.parametrize("words", ["attack --data ", "train-model --architecture "])
def test_zsh_and_fish_offer_them_with_what_they_are(words: str) -> None:
    told = {
        **{name: one.summary for name, one in DATASETS.items()},
        **{name: one.summary for name, one in ARCHITECTURES.items()},
    }
    for shell in ("zsh", "fish"):
        offered, imported, _ = complete(shell, words)
        lines = [line for line in offered if line]
        assert len(lines) == len(ASKED[words]) and imported & SLOW == set()
        for line, name in zip(lines, ASKED[words], strict=True):
            assert name in line and told[name] in line.replace("''", "'").replace(r"\\:", ":")  # as zsh is told


def test_it_takes_a_third_of_importing_torch() -> None:
    """At most, in the processor's time, so that neither other processes nor the machine count; a sixth was measured."""

    def importing() -> float:
        start = _seconds_of_children()
        subprocess.run([sys.executable, "-c", "import torch"], check=True, timeout=60)
        return _seconds_of_children() - start

    completing, importing_torch = zip(
        *((complete("bash", "attack --attack ")[2], importing()) for _ in range(3)), strict=True
    )
    assert min(completing) < min(importing_torch) / 3


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_to_install_are_printed(shell: str) -> None:
    line = [sys.executable, "-m", "fmtool"]
    environment = {**os.environ, "_FMTOOL_COMPLETE": f"source_{shell}"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f"_FMTOOL_COMPLETE=complete_{shell}" in done.stdout
