# Sourced by the scripts here and by tests/run.sh: makes or reuses .venv in the repository, with fmtool installed.
# usage: source examples/setup.sh "[extra]" [pip options...], with "" for no extra: without arguments, bash would pass on the script's own
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extra=${1:-}
python=$root/.venv/bin/python
if [ ! -x "$python" ]; then
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
    candidate=
  done
  if [ -z "$candidate" ]; then echo "setup: needs Python 3.11 or newer" >&2; exit 1; fi
  echo "setup: making .venv with $("$candidate" --version)" >&2
  "$candidate" -m venv "$root/.venv"
fi
# installed again only when what it depends on has changed
stamp=$root/.venv/installed$extra
wanted=$(cat "$root/pyproject.toml" "$root/tests/constraints.txt")
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "setup: installing fmtool$extra and what it needs into .venv (torch is large: some minutes, 5 GB)" >&2
  "$python" -m pip install --quiet --disable-pip-version-check --editable "$root$extra" "${@:2}"
  printf '%s\n' "$wanted" >"$stamp"
else
  echo "setup: reusing .venv" >&2
fi
export PATH="$root/.venv/bin:$PATH"
