# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST := .venv-lowest
# Two test processes of one thread each: more threads than cores make torch many times slower. Each takes its half from
# the front, so that what a file's tests share is made once, and then work that the other has left.
JOBS ?= 2
TESTS = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: help install demo demo-boxes test test-slow test-gpu test-lowest campaign check lint docs benchmarks gpu-benchmarks train-demo-detector clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, found {sys.version.split()[0]}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

install: $(INSTALLED)  ## make the virtual environment .venv

demo: $(INSTALLED)  ## the main job on synthetic scenes, nothing to download: some two minutes on 2 cores
	$(BIN)/mask-frozen-detr demo --output demo-output

demo-boxes: $(INSTALLED)  ## the same without a single mask to learn from
	$(BIN)/mask-frozen-detr demo --output demo-output/boxes --masks-from boxes

test: $(INSTALLED)  ## the tests, on a CPU
	$(TESTS) -m "not slow"

test-slow: $(INSTALLED)  ## the tests that take minutes as well
	$(TESTS) --timeout 1200

test-gpu: $(INSTALLED)  ## the tests that need a GPU: two minutes
	MASK_FROZEN_DETR_TEST_GPU=1 HF_HUB_OFFLINE=1 PYTHONPATH="src$${PYTHONPATH:+:$$PYTHONPATH}" $(BIN)/python -m pytest tests/gpu $(ARGS)

test-lowest: pyproject.toml  ## the tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	$(MAKE) test BIN=$(LOWEST)/bin INSTALLED=

# One failing try again: make campaign ARGS="--kind K --seed S --try N"
campaign: $(INSTALLED)  ## thousands of kills, damaged files and hostile input, counted by kind: some half an hour
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python -m campaign --jobs $(JOBS) $(ARGS)

check: $(INSTALLED)  ## fail where something is not formatted, linted or typed; changes nothing
	$(BIN)/ruff format --check src tests benchmarks .ci
	$(BIN)/ruff check src tests benchmarks .ci
	$(BIN)/mypy

lint: $(INSTALLED)  ## format, lint, check types
	$(BIN)/ruff format src tests benchmarks .ci
	$(BIN)/ruff check --fix src tests benchmarks .ci
	$(BIN)/mypy

docs: $(INSTALLED)  ## the documentation as a site, into site/; fails where a link leads nowhere
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

benchmarks: $(INSTALLED)  ## what it costs on a CPU, beside its peers, at small sizes: minutes
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONPATH=src $(BIN)/python -m benchmarks --device cpu $(ARGS)

# With packages that are there already: make gpu-benchmarks BIN=FOLDER_OF_PYTHON INSTALLED=
gpu-benchmarks: $(INSTALLED)  ## what it costs on a GPU, kernels and peers included: under 9 minutes
	PYTHONPATH="src$${PYTHONPATH:+:$$PYTHONPATH}" $(BIN)/python -m benchmarks --gpu $(ARGS)

train-demo-detector: $(INSTALLED)  ## train the tiny detector that the demo ships with
	$(BIN)/python -m mask_frozen_detr.demo.train_scene_detector --output src/mask_frozen_detr/assets/scene-detector

# runs/ holds the runs of users, and demo-output what they told the demo to keep: neither goes without a word.
clean:  ## remove the virtual environments and caches; runs and the demo's output stay
	rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache
