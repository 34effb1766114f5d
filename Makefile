# Everything a fresh machine needs is done here. `make demo` runs the main job, `make test` passes
# the tests; both install what is missing first.
PYTHON ?= python3
BIN := .venv/bin
# GPU only where a CUDA device is visible: onnxruntime and onnxruntime-gpu never stand together.
RUNTIME ?= $(shell test -e /dev/nvidia0 && echo gpu || echo cpu)

.PHONY: install explain demo test lint bench chaos soak lock clean

install: .venv/.installed-$(RUNTIME)

# The explain tier's own library; its weights come by `demeanor models pull`, see deploy/explain.md.
explain: install .venv/.installed-explain

demo: install
	$(BIN)/demeanor up

test: .venv/.tests
	deploy/test.sh

lint: .venv/.tests
	deploy/lint.sh

bench: .venv/.tests
	$(BIN)/python -m tests.bench.live latency
	$(BIN)/python -m tests.bench.live streams --clients 6 10
	$(BIN)/python -m tests.bench.scorer
	$(BIN)/python -m tests.bench.fanout

# Faults on purpose: a quarter of an hour. `make test` has the short rounds.
chaos: .venv/.tests
	DEMEANOR_CHAOS_EXAMPLES=1000 $(BIN)/python -m pytest -q tests/services/test_delivery_machine.py tests/chaos/test_relay.py
	$(BIN)/python -m tests.chaos run --seeds 20 --round short
	$(BIN)/python -m tests.chaos run --seeds 20 --round long --parallel 4
	$(BIN)/python -m tests.chaos zombie
	$(BIN)/python -m tests.chaos media
	$(BIN)/python -m tests.chaos leak --readers 500 --publishers 50

soak: .venv/.tests
	$(BIN)/python -m tests.chaos soak --minutes 30 --streams 4

.venv/.installed-%: deploy/locks/%.txt deploy/install.sh
	PYTHON=$(PYTHON) deploy/install.sh $*

# The tests run on the CPU build: what they prove must not depend on the machine's GPU.
.venv/.tests: deploy/locks/dev.txt deploy/install.sh
	PYTHON=$(PYTHON) deploy/install.sh dev

lock:
	deploy/lock.sh

clean:
	rm -rf .venv
