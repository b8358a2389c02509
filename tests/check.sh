#!/bin/sh
# Set up a virtual environment and run every check: style, types, tests, branch coverage.
# PYTHON names the interpreter (3.11 or newer), VENV the environment; arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
# The tests start some hundred processes: modules are compiled once, not in each.
unset PYTHONDONTWRITEBYTECODE
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: PYTHON=python3.x tests/check.sh")'
# What is imported gets compiled by the tests; compiling all the rest as well takes half a minute.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
"$venv/bin/ruff" check
"$venv/bin/ruff" format --check
"$venv/bin/mypy"
rm -f .coverage .coverage.*
"$venv/bin/python" -m pytest --numprocesses=auto --dist=worksteal --cov --cov-report=term "$@"
