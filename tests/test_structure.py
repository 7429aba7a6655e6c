"""The layout: imports point down, a test file for each module in the mirrored folder, helpers apart, no file too long."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, TESTS = ROOT / "fmtool", ROOT / "tests"
WITHOUT_TESTS = {  # module -> why it has no test file of its own
    "artifacts/progress.py": "a type",
    "tables/headers.py": "types",
}
MODULES = sorted(
    path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
)  # what __init__.py files hold is tested by cli/test_app.py and the tests of commands
LONGEST = 400  # lines
LONGEST_FUNCTION = 60  # or the line above says why not
FLOORS = (  # from the ground; a room imports those of lower floors, and itself
    *(
        "errors",
        "artifacts",
        "runtime",
        "datasets",
        "correlation",
        "models",
        "masks",
        "attacks",
        "tables",
        "plotting",
        "stages",
    ),
    *("__init__", "cli", "__main__"),
)


def mirrored(module: str) -> Path:
    """`tests/room/test_module.py`; `__main__` is test_main.py."""
    path = Path(module)
    return TESTS / path.parent / f"test_{path.stem.strip('_')}.py"


@pytest.mark.parametrize("module", [module for module in MODULES if module not in WITHOUT_TESTS])
def test_every_module_has_a_test_file_in_the_mirrored_folder(module: str) -> None:
    path = mirrored(module)
    assert path.is_file(), f"fmtool/{module} has no {path.relative_to(ROOT)}: see tests/README.md, What goes where"
    assert re.search(r"^def test_", path.read_text(), re.MULTILINE), f"{path.relative_to(ROOT)} holds no test"


def test_the_exceptions_exist_and_hold_no_functions() -> None:
    for module in WITHOUT_TESTS:
        assert module in MODULES and not mirrored(module).exists()
        assert not re.search(r"^\s*(def|class) ", (PACKAGE / module).read_text(), re.MULTILINE)


def test_a_room_of_tests_is_a_room_of_the_package() -> None:
    """Beside folders of files that tests read."""
    rooms = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert [str(room) for room in sorted(rooms) if not (PACKAGE / room).is_dir()] == []


def test_helpers_are_in_no_test_file() -> None:
    """A module that tests import is called otherwise."""
    pattern = re.compile(r"^\s*(from|import) (tests\.)?(\w+\.)*test_\w+", re.MULTILINE)
    found = [path.relative_to(ROOT).as_posix() for path in TESTS.rglob("*.py") if pattern.search(path.read_text())]
    assert found == []


def test_no_file_is_too_long() -> None:
    files = [path for folder in (PACKAGE, TESTS, ROOT / "examples") for path in folder.rglob("*.py")]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_no_function_is_too_long_without_a_word_why() -> None:
    found = []
    for path in [path for folder in (PACKAGE, ROOT / "examples") for path in folder.rglob("*.py")]:
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION:
                above = min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 2
                if f"# Over {LONGEST_FUNCTION} lines" not in lines[above]:
                    found.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert found == []


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it, as paths without the package's name."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{one.name}" for one in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE.name:
                longest = (Path(*parts[1:end]).with_suffix(".py") for end in range(len(parts), 1, -1))
                yield next((file.as_posix() for file in longest if file.as_posix() in MODULES), "__init__.py")


def test_no_import_points_up_and_no_modules_import_each_other() -> None:
    def floor(module: str) -> int:
        return FLOORS.index(module.partition("/")[0].removesuffix(".py"))

    arrows = {module: set(imported(PACKAGE / module)) - {module} for module in MODULES}
    up = [f"{a} -> {b}" for a, others in arrows.items() for b in sorted(others) if floor(b) > floor(a)]
    assert up == [] and sum(map(len, arrows.values())) > len(MODULES)
    TopologicalSorter(arrows).prepare()  # CycleError names a circle
