# Everything a fresh machine needs is done here. `make demo` runs the main job, `make test` passes
# the tests; both install what is missing first.
PYTHON ?= python3
BIN := .venv/bin
# GPU only where a CUDA device is visible: onnxruntime and onnxruntime-gpu never stand together.
RUNTIME ?= $(shell test -e /dev/nvidia0 && echo gpu || echo cpu)

.PHONY: install demo test lint bench lock clean

install: .venv/.installed-$(RUNTIME)

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

.venv/.installed-%: deploy/locks/%.txt deploy/install.sh
	PYTHON=$(PYTHON) deploy/install.sh $*

# The tests run on the CPU build: what they prove must not depend on the machine's GPU.
.venv/.tests: deploy/locks/dev.txt deploy/install.sh
	PYTHON=$(PYTHON) deploy/install.sh dev

lock:
	deploy/lock.sh

clean:
	rm -rf .venv
