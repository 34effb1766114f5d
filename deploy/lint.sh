#!/bin/sh
# Format, lint, types and import contracts.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/ruff format --check -q .
.venv/bin/ruff check -q .
.venv/bin/mypy
.venv/bin/lint-imports --no-timing 2>/dev/null || .venv/bin/lint-imports
