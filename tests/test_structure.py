"""The layout of modules and tests: a test file for each module in the mirrored folder, helpers apart, no file too long."""

from __future__ import annotations

import re
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
