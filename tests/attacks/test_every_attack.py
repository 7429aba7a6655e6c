"""The table of examples/README.md: which of Foolbox's attacks run, which need what, which can't; printed by this as a script."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fmtool
from fmtool.attacks import foolbox
from fmtool.errors import AttackError

PAGE = Path(__file__).resolve().parents[2] / "examples" / "README.md"
FEW = {
    "steps": 3,
    "binary_search_steps": 1,
    "initial_num_evals": 5,
    "max_num_evals": 5,
    "search_steps": 3,
    "directions": 5,
}
NEEDS = {"needs an --epsilon": "--epsilon", "needs --attack-option distance=": "--attack-option distance=l2"}
SMALL = fmtool.Execution(device="cpu", batch_size=8)
BOUNDS = {"l-inf": 0.3, "l2": 2.0, "l1": 10.0, "l0": 10.0, None: 0.3}


def classes() -> dict[str, Any]:
    """Foolbox's attacks under all of their names that are no alias of another one."""
    found = vars(foolbox.load_foolbox().attacks)
    base = foolbox.load_foolbox().attacks.Attack
    return {
        name: value
        for name, value in sorted(found.items())
        if inspect.isclass(value)
        and issubclass(value, base)
        and not inspect.isabstract(value)
        and value.__name__ == name
    }


def outcome(name: str, kind: Any, model: fmtool.Artifact, data: fmtool.Data) -> tuple[str, str, str]:
    """(norm, what it needs, why it can't run) on a few images with few steps; as users do, what it asks for is added."""
    parameters = inspect.signature(kind.__init__).parameters
    options: dict[str, Any] = {key: value for key, value in FEW.items() if key in parameters}
    needed = [
        f"--attack-option {key}=N"
        for key in FEW
        if key in parameters and parameters[key].default is inspect.Parameter.empty
    ]
    epsilon, norm = None, None
    for _ in range(3):
        try:
            result = fmtool.attack(model, data, attack=name, epsilon=epsilon, attack_options=options, execution=SMALL)
        except AttackError as error:
            message = str(error)
            need = next((option for told, option in NEEDS.items() if told in message), None)
            if need is None or need in needed:
                return "", "", re.sub(r"^attack \w+(:| can't run[^:]*:)? ?", "", message)
            needed.append(need)
            if need == "--epsilon":
                built, _ = foolbox.build(name, options)
                epsilon = BOUNDS[foolbox.norm_of(built)]
            else:
                options["distance"] = "l2"
        else:
            norm = result.header["norm"]
            assert ((result["adversarial"] >= 0) & (result["adversarial"] <= 1)).all()
            moved = (result["adversarial"] - result["images"]).flatten(1)
            if epsilon is not None and norm is not None:
                p = foolbox.NORMS[norm]
                assert float(torch.linalg.vector_norm(moved, p, dim=1).max()) <= epsilon * (1 + 1e-4)
            return norm or "", ", ".join(needed), ""
    raise AssertionError(f"{name} asks for more and more: {needed}")


def table(model: fmtool.Artifact, data: fmtool.Data) -> str:
    lines = ["| attack | distance | needs | can't run |", "| --- | --- | --- | --- |"]
    for name, kind in classes().items():
        lines.append("| " + " | ".join((name, *outcome(name, kind, model, data))) + " |")
        print(lines[-1], file=sys.stderr)  # some take long
    return "\n".join(lines)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_table_of_attacks_is_what_they_do(files: Path) -> None:
    found = table(fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=6))
    assert found in PAGE.read_text()


def test_every_attack_is_in_the_table() -> None:
    rows = re.findall(r"^\| (\w+) \|", PAGE.read_text().partition("| attack | distance")[2], re.MULTILINE)
    assert rows[: len(classes())] == list(classes())


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(table(fmtool.read(sys.argv[1]), fmtool.load_data("digits:test", limit=6)))
