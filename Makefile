# Every target sees to .venv by itself; `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DATA ?= demo
SET ?=
RUN ?= demo
BASE ?= python:3.11-slim
ACCELERATOR ?= cpu
IMAGES ?=
PORT ?= 3000
SETTINGS := $(foreach s,$(SET),--set $(s))

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements.lock
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## make .venv with everything pinned in requirements.lock

.PHONY: demo
demo: setup ## the main job, end to end: DATA=folder of a log (default: the made-up demo shop)
	$(BIN)/eager-llm run --data "$(DATA)" $(SETTINGS)

# two-nights is its earlier name.
.PHONY: two-refreshes two-nights
two-refreshes: setup ## two refreshes in a row on the made-up demo shop, and a worse bundle that is refused, into runs/refreshes
	PYTHONPATH=src $(BIN)/python scripts/two_refreshes.py $(SETTINGS)
two-nights: two-refreshes

.PHONY: serve
serve: setup ## answer from the bundle of runs/RUN (default: demo) on PORT: the API, and a page at /ui
	$(BIN)/eager-llm serve --bundle "runs/$(RUN)/bundle" --features "runs/$(RUN)/features" --port $(PORT)

.PHONY: test
test: setup ## pass the tests
	$(BIN)/python -m pytest

.PHONY: fuzz-serving
fuzz-serving: setup ## 5,000 made-up and 5,000 hostile requests to the service: no 500, flat memory, others in time
	EAGER_LLM_FUZZ=5000 $(BIN)/python -m pytest tests/serving/test_fuzz.py --timeout 3600

.PHONY: rollout-serving
rollout-serving: setup ## a hundred users for ten minutes while the service of runs/RUN is restarted under them
	PYTHONPATH=src $(BIN)/python benchmarks/serving_rollout.py --bundle "runs/$(RUN)/bundle"

.PHONY: coverage
coverage: setup ## run the tests with branch coverage, the least covered files first
	$(BIN)/python -m pytest --cov --cov-branch --cov-report=
	$(BIN)/coverage report --skip-covered --sort=cover

.PHONY: docs
docs: setup ## build the site of docs/ into site/, without a warning
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: lint
lint: setup ## style, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-cache

.PHONY: format
format: setup ## bring the code into style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: manifests
manifests: setup ## compile the pipeline for a cluster into pipelines/manifests
	$(BIN)/python -m pipelines.cluster.compile

.PHONY: pages
pages: setup ## write each step's README from its code and its row of the placement table
	$(BIN)/python scripts/pages.py

.PHONY: goldens
goldens: setup ## render the charts' examples anew into tests/charts/golden
	$(BIN)/python tests/charts/rendering.py

.PHONY: images
images: setup ## build the images: IMAGES="data training serving" BASE=python:3.11-slim ACCELERATOR=cpu|cuda
	$(BIN)/python scripts/images.py --base "$(BASE)" --accelerator "$(ACCELERATOR)" $(IMAGES)

.PHONY: base-image
base-image: ## make a base image from Debian packages where there is no registry, for BASE=eager-llm/base:bookworm
	scripts/base_image.sh eager-llm/base:bookworm

.PHONY: e2e-serving
e2e-serving: setup ## build the serving image, run it with Redis, ask it everything, kill Redis (root, Debian)
	$(BIN)/python scripts/e2e_serving.py --base "$(BASE)"

.PHONY: e2e-pipeline
e2e-pipeline: setup ## build the images, run the whole pipeline in them, serve its bundle, break it (root, Debian)
	$(BIN)/python scripts/e2e_pipeline.py --base "$(BASE)"

.PHONY: lock
lock: setup ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/python scripts/lock.py

.PHONY: clean
clean: ## remove the runs and the environment
	rm -rf runs $(VENV)
