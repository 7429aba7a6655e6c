#!/usr/bin/env bash
# Set up .venv with the versions that the tests were written with, then lint, type-check and test, and list the slowest tests.
# --fast: no type check, and no test that starts processes or computes for seconds (markers processes and slow).
# --full: also the tests marked long (not those marked huge), the wheel among them, and those of LOWEST with the lowest versions that pyproject.toml
# promises, in an environment of their own (5 GB more). All other arguments go to pytest; without any, a process for each core shares
# the tests, at most four.
LOWEST="tests/artifacts tests/test_same_bytes.py tests/test_schema_1.py tests/attacks/test_foolbox.py tests/attacks/test_variants.py
  tests/cli/test_app.py tests/cli/test_correlate.py tests/cli/test_plot.py tests/correlation/statistics/test_idcor.py
  tests/correlation/statistics/test_idcor_skdim.py tests/datasets/readers
  tests/stages/test_fit_masks.py tests/stages/test_defend.py tests/stages/test_correlate.py tests/tables tests/models/test_training.py
  tests/stages/test_attack.py tests/stages/test_train_model.py"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mode=
if [ "${1:-}" = --full ] || [ "${1:-}" = --fast ]; then mode=$1; shift; fi
arguments=("$@")
if [ $# = 0 ]; then
  arguments=(--numprocesses auto --maxprocesses 4 --dist worksteal)
  export OMP_WAIT_POLICY=PASSIVE  # or threads of one process wait for work on the core that another needs
fi
source "$here/../examples/setup.sh" "[test]" --constraint "$here/constraints.txt"
cd "$root"
ruff check .
ruff format --check .
if [ "$mode" = --fast ]; then exec pytest -m "not processes and not slow and not long and not huge" "${arguments[@]}"; fi
mypy --strict fmtool
if [ -z "$mode" ]; then exec pytest --durations 20 "${arguments[@]}"; fi
pytest -m "not huge" --durations 20 "${arguments[@]}"

for python in python3.11 python3.12 ""; do  # the lowest versions of NumPy and Numba have no wheels for a newer Python
  if [ -z "$python" ]; then echo "run.sh: found neither Python 3.11 nor 3.12: the lowest versions are not tested" >&2; exit 1; fi
  if "$python" -c 'import venv' 2>/dev/null; then break; fi
done
lowest=$root/.venv/lowest
wanted=$(cat pyproject.toml tests/constraints-minimum.txt)
if [ "$(cat "$lowest/installed" 2>/dev/null)" != "$wanted" ]; then
  echo "run.sh: installing the lowest versions into .venv/lowest (some minutes)" >&2
  "$python" -m venv --clear "$lowest"
  "$lowest/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[test]" --constraint tests/constraints-minimum.txt
  printf '%s\n' "$wanted" >"$lowest/installed"
fi
# libraries of their time warn of each other
"$lowest/bin/python" -m pytest -W ignore::DeprecationWarning $LOWEST "${arguments[@]}"
