#!/bin/sh
# What `make test` and continuous integration run: lint, then the whole test suite with coverage.
set -eu
cd "$(dirname "$0")/.."
deploy/lint.sh
.venv/bin/python -m pytest -q --cov --cov-report=term:skip-covered "$@"
