#!/usr/bin/env bash
# Set up .venv with the versions that the tests were written with, then lint, type-check and test.
# Arguments go to pytest.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
arguments=("$@")
source "$here/../examples/setup.sh" "[test]" --constraint "$here/constraints.txt"
cd "$root"
ruff check .
ruff format --check .
mypy --strict fmtool
pytest "${arguments[@]}"
