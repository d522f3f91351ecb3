# Everything runs in .venv, which is made on first use from requirements.lock.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
ARGS ?=
# Threads that wait asleep: spinning ones slow every other process down by a multiple.
RUN := OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help attribute train test test-all test-newest bench bench-gpu peers lint lock

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

attribute: .venv/installed ## Run the embedded model (ARGS="seed=1" overrides the configuration)
	$(RUN) attribute.py $(ARGS)

train: .venv/installed ## Train the embedded model, or with ARGS="experiment=tiny_gill/judge" one part of it
	$(RUN) train.py $(if $(findstring experiment=,$(ARGS)),,experiment=tiny_gill/all) $(ARGS)

test: .venv/installed ## Run the tests, but for the slow ones
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 -m "not slow" $(ARGS)

test-all: .venv/installed ## Run all tests: more kills, more fuzzing, larger tables
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 --hypothesis-profile=thorough $(ARGS)

test-newest: ## Run the tests on the newest versions that setup.cfg allows, but the torch of the lock
	rm -rf build/newest && $(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip install -q -U "$$(grep '^torch==' requirements.lock)" -e '.[dev]'
	build/newest/bin/python -m pip list --format=freeze > build/newest/versions
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 \
		build/newest/bin/python -m pytest -q -n 2 -m "not slow" $(ARGS)

# It has the machine to itself, and its threads spin as PyTorch's own do.
bench: .venv/installed ## Measure what each method costs, with pass or miss beside every target
	$(BIN)/python -m benchmarks.overhead $(ARGS)

bench-gpu: .venv/installed ## Measure the full-size shape on a GPU; without one it says so and ends
	$(RUN) -m benchmarks.gpu $(ARGS)

# Libraries that `make bench` measures beside this one; each needs versions of its own.
PEERS := transformer_lens nnsight pyvene

peers: $(PEERS:%=build/peers/%/installed) ## Install the libraries that `make bench` compares with, each by itself

build/peers/%/installed: benchmarks/peers/%.txt
	rm -rf build/peers/$* && $(PYTHON) -m venv build/peers/$*
	build/peers/$*/bin/python -m pip install -q -r $<
	@touch $@

lint: .venv/installed ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

lock: ## Write requirements.lock anew from setup.cfg, on a machine without CUDA packages
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q 'torch==2.13.0' '.[dev]'
	sed -n '/^#/p' requirements.lock > build/lock/header
	build/lock/bin/python -m pip freeze --exclude nam-mllm --exclude pip --exclude setuptools \
		| sed -E '/^(nvidia|cuda|triton)/d; s/\+cpu$$//' > build/lock/pins
	cat build/lock/header build/lock/pins > requirements.lock

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is another: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: requirements.lock setup.cfg pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -q -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@
