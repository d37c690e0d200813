#!/usr/bin/env bash
# Install ds_bert with its tested versions (constraints.txt) into .venv, once.
#
#   bash scripts/install.sh        what training needs, and charts for its reports
#   bash scripts/install.sh dev    and what testing needs
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $("$python" --version 2>&1) found, Python 3.11 or later expected;" \
        "install one, or name it: PYTHON=/path/to/python bash $0" >&2
    exit 2
fi
extras=[${1:-report}]
stamp=.venv/installed$extras
if cmp -s <(cat setup.py constraints.txt) "$stamp"; then
    exit 0
fi
echo "installing ds_bert$extras into .venv (a few minutes the first time)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
# torch first and alone: the packages after it must not choose another build of it.
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras"
cat setup.py constraints.txt >"$stamp"
