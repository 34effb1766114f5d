#!/bin/sh
# Install Demeanor into .venv from the hash lock: deploy/install.sh cpu|gpu|dev
# What the explain tier adds to it: deploy/install.sh explain
# With root rights it also brings what only the distribution has; without, it says what to install.
set -eu
cd "$(dirname "$0")/.."
kind=$1
python=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }

packages() { # packages NAME…: install distribution packages, or say how
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $* (apt)"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
    else
        say "This needs: $*"
        say "Install it and run make again, on Debian:  sudo apt-get install $*"
        exit 1
    fi
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    say "Demeanor needs Python 3.11 or newer; '$python' is not. Name another one: make PYTHON=python3.12 …"
    exit 1
}
"$python" -c 'import ensurepip, venv' 2>/dev/null || packages python3-venv
[ -x .venv/bin/python ] || "$python" -m venv .venv

# The runtime in place, cpu or gpu, stays as it is: this lock names neither.
if [ "$kind" = explain ]; then
    say "installing what the explain tier needs"
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 .venv/bin/python -m pip install -q --no-deps \
        --require-hashes -r deploy/locks/explain.txt 2>.venv/install.log || {
        cat .venv/install.log >&2
        exit 1
    }
    touch .venv/.installed-explain
    exit 0
fi

case $kind in
    cpu | dev) other=onnxruntime-gpu ;;
    gpu) other=onnxruntime ;;
    *) say "deploy/install.sh cpu|gpu|dev|explain"; exit 2 ;;
esac
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# Both runtimes install the same import package; the wrong one goes first, whole.
if .venv/bin/python -m pip show -q "$other" 2>/dev/null; then
    .venv/bin/python -m pip uninstall -q -y "$other"
    rm -f .venv/.installed-* .venv/.tests
fi
# The lock is whole, so nothing is resolved here: a release made since cannot come in.
say "installing the locked dependencies ($kind)"
.venv/bin/python -m pip install -q --no-deps --require-hashes -r "deploy/locks/$kind.txt" 2>.venv/install.log || {
    cat .venv/install.log >&2
    exit 1
}
.venv/bin/python -m pip install -q --no-deps --no-build-isolation -e .

if [ "$kind" = dev ]; then
    # torch stands beside the lock: only the exporter tests use it, and which build fits depends
    # on the machine.
    .venv/bin/python -c 'import torch' 2>/dev/null ||
        .venv/bin/python -m pip install -q 'torch==2.13.0' 2>.venv/install.log || {
        cat .venv/install.log >&2
        exit 1
    }
    command -v chromium >/dev/null || packages chromium
    touch .venv/.tests .venv/.installed-cpu
else
    touch ".venv/.installed-$kind"
fi
