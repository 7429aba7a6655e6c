"""Pipes and scripts: `-` everywhere, pipelines that fail as they should, one JSON document, files as the shell expects them."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, commands_with

import fmtool
from fmtool.__main__ import run_command
from fmtool.tables.table import Table, as_json

TOOL = f"{shlex.quote(sys.executable)} -m fmtool"
FEW = "--min-steps 0 --max-steps 2"
# Every place where a command takes an artifact: - stands there, and the file named behind the bar comes through a pipe.
# FOLDER/NAME are the files of the fixture `files`.
READS = {
    "train-model": ["train-model --from - --data digits --limit 20 --epochs 1 -o OUT | model"],
    "import-model": [],  # a checkpoint is no artifact
    "attack": [
        "attack - --data digits --limit 5 --attack pgd --attack-option steps=1 -o OUT | model",
        "attack FOLDER/model --data digits --limit 5 --attack-option steps=1 --restarts 1 --defense - -o OUT | plain",
    ],
    "fit-masks": [
        f"fit-masks - FOLDER/fmn --for essential --limit 3 {FEW} -o OUT | model",
        f"fit-masks FOLDER/model - --for adversarial --limit 3 {FEW} -o OUT | fmn",
    ],
    "correlate": [
        "correlate - FOLDER/adversarial --permutations 3 --statistics cosine -o OUT | essential",
        "correlate FOLDER/essential - --permutations 3 --statistics cosine -o OUT | adversarial",
    ],
    "class-masks": [
        f"class-masks - --data digits --limit 10 {FEW} -o OUT | model",
        f"class-masks FOLDER/model - --robust {FEW} -o OUT | fmn",
    ],
    "defend": ["defend - FOLDER/fmn FOLDER/plain -o OUT | model", "defend FOLDER/model FOLDER/fmn - -o OUT | robust"],
    "check-masks": [
        "check-masks - FOLDER/fmn FOLDER/essential --draws 1 | model",
        "check-masks FOLDER/model - FOLDER/essential --draws 1 | fmn",
        "check-masks FOLDER/model FOLDER/fmn - --draws 1 | essential",
    ],
    "import-attack": ["import-attack - --data digits --limit 60 --adversarial FOLDER/fmn -o OUT | model"],
    "heatmap": ["heatmap - --data digits --limit 4 -o OUT | model"],
    "merge": ["merge - -o OUT | essential"],
    "inspect": ["inspect - | defense", "inspect --spectrum - --format csv | fmn"],
    "verify": ["verify - FOLDER/model --format csv | fmn"],
    "plot": ["plot - -o OUT.png | correlation", "plot FOLDER/essential --same-images-as - -o OUT.png | fmn"],
    "report": ["report - -o OUT | correlation"],
    "doctor": [],
}
# every command that writes an artifact or a page, to standard output
WRITES = {
    "train-model": "train-model --data digits --limit 20 --epochs 1 --architecture resnet8",
    "import-model": "import-model resnet8 --weights none --input-shape 1,8,8",
    "attack": "attack FOLDER/model --data digits --limit 5 --attack pgd --attack-option steps=1",
    "fit-masks": f"fit-masks FOLDER/model FOLDER/fmn --for essential --limit 3 {FEW}",
    "correlate": "correlate FOLDER/essential FOLDER/adversarial --permutations 3 --statistics cosine",
    "class-masks": f"class-masks FOLDER/model --data digits --limit 10 {FEW}",
    "defend": "defend FOLDER/model FOLDER/fmn FOLDER/plain",
    "import-attack": "import-attack FOLDER/model --data digits --limit 60 --adversarial FOLDER/fmn",
    "heatmap": "heatmap FOLDER/model --data digits --limit 4",
    "merge": "merge FOLDER/essential",
    "report": "report FOLDER/correlation",
}


def words(line: str, files: Path, out: Path) -> list[str]:
    """A line above as arguments."""
    full = [f"{word}.safetensors" if word.startswith("FOLDER/") else word for word in line.split()]
    return [word.replace("FOLDER", str(files)).replace("OUT", str(out)) for word in full]


def shell(line: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """A line of bash with `fmtool` in it, which fails where any part of a pipe does."""
    text = f'fmtool() {{ {TOOL} "$@"; }}\n{line}'
    done = ["bash", "-o", "pipefail", "-c", text]
    return subprocess.run(done, **{"capture_output": True, "text": True, "timeout": 120, **more})  # type: ignore[no-any-return]


# - -------------------------------------------------------------------------------------------------------------------


def test_every_command_is_walked_over() -> None:
    assert set(READS) == set(commands_with("--debug"))
    assert set(commands_with("--output")) - {"plot"} == set(WRITES)  # a picture's format is told by its name


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for lines in READS.values() for line in lines])
def test_every_place_for_an_artifact_takes_standard_input(
    line: str, run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is what the file under its name gives."""
    command, _, name = line.partition(" | ")
    results = []
    for number, place in enumerate(("-", str(files / f"{name}.safetensors"))):
        given = [place if word == "-" else word for word in words(command, files, tmp_path / str(number))]
        with open(files / f"{name}.safetensors") as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            outcome = run(*given)
        assert outcome.code == 0, outcome.err
        shown = [outcome.out.encode(), *(path.read_bytes() for path in sorted(tmp_path.glob(f"{number}*")))]
        named = str(files / f"{name}.safetensors").encode()
        results.append(
            [text.replace(named, b"standard input").replace(str(tmp_path / "1").encode(), b"") for text in shown]
        )
    results[0] = [text.replace(str(tmp_path / "0").encode(), b"") for text in results[0]]
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITES)
def test_every_result_goes_to_standard_output(
    name: str, files: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    line = words(WRITES[name], files, tmp_path)
    assert run_command([*line, "-o", str(tmp_path / "file")]) == 0
    table = capfdbinary.readouterr().out
    assert run_command([*line, "-o", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == (tmp_path / "file").read_bytes()
    assert name == "report" or (table and err.endswith(table))


@pytest.mark.parametrize(
    "line", ["fit-masks - - --for essential -o -", "merge - x - -o OUT", "attack - --data digits --defense - -o OUT"]
)
def test_standard_input_stands_for_one_file(line: str, run: Run, files: Path, tmp_path: Path) -> None:
    outcome = run(*words(line, files, tmp_path))
    assert (outcome.code, outcome.out, list(tmp_path.iterdir())) == (1, "", [])
    assert outcome.err == "fmtool: error: '-' is given several times, but standard input holds one file\n"


# Pipelines -----------------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_three_stages_in_a_pipe_give_what_files_give(run: Run, files: Path, tmp_path: Path) -> None:
    attack = (
        f"attack {files}/model.safetensors --data digits --limit 12 --attack pgd --epsilon 0.3 --attack-option steps=3"
    )
    masks = f"--for adversarial {FEW}"
    done = shell(
        f"fmtool {attack} -o - | fmtool fit-masks {files}/model.safetensors - {masks} -o - | fmtool merge - -o {tmp_path}/piped"
    )
    assert done.returncode == 0, done.stderr
    assert run(*attack.split(), "-o", tmp_path / "attack").code == 0
    line = ["fit-masks", files / "model.safetensors", tmp_path / "attack", *masks.split(), "-o", tmp_path / "masks"]
    assert run(*line).code == run("merge", tmp_path / "masks", "-o", tmp_path / "stored").code == 0
    assert (tmp_path / "piped").read_bytes() == (tmp_path / "stored").read_bytes()


@pytest.mark.processes
@pytest.mark.parametrize("broken", [0, 1])
def test_a_broken_stage_ends_the_pipe_with_a_line_each(broken: int, files: Path, tmp_path: Path) -> None:
    """The stage that fails says why, those behind it that nothing came; the target is left as it was."""
    (tmp_path / "target").write_text("old")
    stages = [f"merge {files}/essential.safetensors -o -", "merge - -o -", f"merge - -o {tmp_path}/target"]
    stages[broken] = f"merge {files}/model.safetensors -o -"
    done = shell(" | ".join(f"fmtool {stage}" for stage in stages))
    assert done.returncode == 1 and (tmp_path / "target").read_text() == "old"
    errors = [line for line in done.stderr.splitlines() if line.startswith("fmtool: error: ")]
    assert "Traceback" not in done.stderr and len(errors) == 3 - broken
    assert sum("standard input is empty" in line for line in errors) == 2 - broken
    assert list(tmp_path.iterdir()) == [tmp_path / "target"]


@pytest.mark.processes
def test_half_a_file_from_a_pipe_is_refused(files: Path) -> None:
    done = shell(f"head -c 2000 {files}/essential.safetensors | fmtool inspect -")
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.startswith("fmtool: error: standard input: not a complete safetensors file")
        and done.stderr.count("\n") == 1
    )


@pytest.mark.processes
def test_a_stage_whose_reader_has_gone_ends_quietly(files: Path) -> None:
    done = shell(
        f"fmtool merge {files}/essential.safetensors -o - --quiet 2>err | true; echo ${{PIPESTATUS[0]}}",
        cwd=files.parent,
    )
    assert done.stdout in ("1\n", "0\n")  # true may end after the whole file went into the pipe
    assert "Traceback" not in (files.parent / "err").read_text()


# JSON ----------------------------------------------------------------------------------------------------------------

TABLES = {  # command line -> how many tables there are
    **{line: 1 for line in WRITES.values() if not line.startswith("report")},
    WRITES["heatmap"]: 3,
    "correlate FOLDER/essential FOLDER/adversarial --permutations 3 --statistics cosine --class-subsets --subsample 9": 4,
    "check-masks FOLDER/model FOLDER/fmn FOLDER/essential --draws 1": 1,
    "inspect FOLDER/defense": 1,
    "inspect FOLDER/defense FOLDER/model FOLDER/fmn": 3,
    "inspect FOLDER/essential FOLDER/adversarial": 1,
    "inspect --spectrum FOLDER/essential FOLDER/fmn": 1,
    "verify FOLDER/model FOLDER/fmn": 1,
    "doctor": 1,
}


NAMES = ("file", "digest", "made from", "result")  # headings of texts that may begin with a number


@pytest.mark.slow
@pytest.mark.parametrize("line", TABLES)
def test_json_is_one_document_of_the_schema(line: str, run: Run, files: Path, tmp_path: Path) -> None:
    arguments = words(line, files, tmp_path)
    if line in WRITES.values() and not line.startswith(("correlate", "defend")):
        arguments += ["-o", str(tmp_path / "file")]
    outcome = run(*arguments, "--format", "json")
    assert outcome.code == 0 or line == "doctor", outcome.err
    parsed = json.loads(outcome.out, parse_constant=pytest.fail)  # NaN is no JSON
    tables = parsed if TABLES[line] > 1 else [parsed]
    assert len(tables) == TABLES[line]
    for table in tables:
        assert list(table) == ["title", "rows", "notes"] and isinstance(table["title"], str)
        assert all(isinstance(note, str) for note in table["notes"]) and table["rows"]
        for row in table["rows"]:
            assert list(row) == list(table["rows"][0])
            assert all(value is None or isinstance(value, str | int | float | bool) for value in row.values())
            texts = (value for name, value in row.items() if isinstance(value, str) and name not in NAMES)
            assert not [value for value in texts if value == "-" or re.match(r"[-+]?\d*\.\d", value)]


def test_every_command_with_a_table_has_its_json_tried() -> None:
    assert {line.split()[0] for line in TABLES} == set(commands_with("--format"))


def test_numbers_that_are_not_are_null_in_each_of_several_tables() -> None:
    table = Table("t", {"a": ".1f", "b": ".1f", "c": ""}, [[float("nan"), float("-inf"), None]])
    assert json.loads(as_json(table, table))[1] == {
        "title": "t",
        "rows": [{"a": None, "b": None, "c": None}],
        "notes": [],
    }


# Files and terminals -------------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("name", ["merge", "defend"])
def test_results_have_the_umask_follow_links_and_go_into_fifos(name: str, files: Path, tmp_path: Path) -> None:
    """merge writes row by row, defend at once. Pictures and pages are written as defend's file is."""
    line = shlex.join(words(WRITES[name], files, tmp_path))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    os.mkfifo(tmp_path / "fifo")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    made = f"fmtool {line} -o {tmp_path}"
    done = shell(f"umask 027; {made}/link && {made}/fifo && fmtool {line} -o /dev/stdout | cmp - {tmp_path}/link")
    reader.join(timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "link").is_symlink() and (tmp_path / "fifo").is_fifo()
    assert stat.S_IMODE((tmp_path / "real" / "file").stat().st_mode) == 0o640
    assert found == [(tmp_path / "real" / "file").read_bytes()]
    assert fmtool.read(str(tmp_path / "link")).kind in ("masks", "defense")


@pytest.mark.slow
def test_pictures_and_pages_have_the_umask_and_follow_links(run: Run, files: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name in ("picture.png", "page.html"):
            (tmp_path / name).symlink_to(tmp_path / f"real-{name}")
        assert run("plot", files / "essential.safetensors", "-o", tmp_path / "picture.png").code == 0
        assert run("report", files / "correlation.safetensors", "-o", tmp_path / "page.html").code == 0
    finally:
        os.umask(before)
    for name in ("picture.png", "page.html"):
        assert (tmp_path / name).is_symlink() and stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


@pytest.mark.processes
@pytest.mark.parametrize("source", ["/dev/stdin", "<(cat FILE)"])
def test_devices_and_process_substitution_are_read(source: str, run: Run, files: Path) -> None:
    file = files / "essential.safetensors"
    for command in ("inspect --format csv", "merge -o - -q"):
        done = shell(
            f"fmtool {command} {source.replace('FILE', str(file))} < {file} | cksum; fmtool {command} {file} | cksum"
        )
        assert done.returncode == 0 and len(set(done.stdout.splitlines())) == 1, done.stderr


@pytest.mark.processes
def test_a_locale_without_the_letters_is_no_error(files: Path) -> None:
    """Bars of the spectrum, the sign before a deviation, and a name."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = shell(f"ln -s {files}/fmn.safetensors /tmp/$$-ä; fmtool inspect /tmp/$$-ä; rm /tmp/$$-ä", env=environment)
    assert done.returncode == 0 and done.stderr == "" and "mean radial frequency" in done.stdout
    assert "\\u258" in done.stdout and done.stdout.isascii()


def terminal(line: str, folder: Path, **environment: str) -> str:
    """What a command writes to a terminal."""
    import pty

    leader, follower = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    given = {**kept, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "fmtool", *line.split()], stdout=follower, stderr=follower, env=given, cwd=folder
    )
    os.close(follower)
    text = b""
    try:
        while part := os.read(leader, 65536):
            text += part
    except OSError:  # the terminal's end, as Linux says it
        pass
    os.close(leader)
    assert process.wait(timeout=60) == 0, text
    return text.decode()


@pytest.mark.processes
def test_colour_is_for_terminals_and_only_where_it_is_wanted(files: Path) -> None:
    line = "inspect defense.safetensors"
    coloured, plain = terminal(line, files), terminal(line, files, NO_COLOR="1")
    assert "\x1b[" in coloured
    assert not {
        code for code in plain.split("\x1b[")[1:] if code.partition("m")[0] not in ("0", "1", "2", "3")
    }  # no colour


@pytest.mark.slow
@pytest.mark.parametrize("name", ["merge", "defend", "correlate", "attack", "class-masks"])
def test_quiet_leaves_nothing_on_standard_error_and_results_as_they_are(
    name: str, run: Run, files: Path, tmp_path: Path
) -> None:
    line = [*words(WRITES[name], files, tmp_path), "-o", str(tmp_path / "file")]
    loud, quiet = run(*line), run(*line, "--quiet")
    assert (quiet.code, quiet.err, quiet.out) == (0, "", loud.out)
