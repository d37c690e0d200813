#!/usr/bin/env bash
# Lint, type check and the whole test suite, in an environment of its own (.venv). About 5 minutes on 2 cores.
#
#   bash scripts/test.sh                      everything
#   bash scripts/test.sh tests/dataset  only these tests; arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev
. .venv/bin/activate
ruff check .
ruff format --check .
mypy
pytest -n auto "$@"
