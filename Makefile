# `make help` lists what there is. Every target works in a fresh clone with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FILM := films/big_buck_bunny.mp4
EXPORTS := data/exports/segmentation/data.yaml
DEMO := out/demo
PACK ?= packs/bbb
ADDRESS ?= http://127.0.0.1:8265

export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install browser demo submit test pages chaos lint film data bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## virtual environment in .venv with everything in it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	@# By all cores, where pip compiles one file after the other. Some files of packages are no Python.
	@$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib >/dev/null || true
	@touch $@

browser: ## Chromium for the tests of pages, from Debian's packages where it is missing
	@command -v "$${CHROMIUM:-chromium}" || command -v chromium-browser || command -v google-chrome || \
	  { test "$$(id -u)" = 0 && apt-get update -q && apt-get install -qy --no-install-recommends chromium; } || \
	  { echo "no Chromium: install it, or name one by CHROMIUM=PATH" >&2; exit 1; }

demo: $(INSTALLED) ## label the bundled excerpt and write its report
	$(BIN)/insideout label data/excerpt/big_buck_bunny_excerpt.mp4 --pack packs/bbb --out $(DEMO) --crops

# What .gitignore and .rayignore name stays here; the rest goes along with the job.
submit: $(INSTALLED) ## label FILMS into OUT on a cluster: make submit FILMS=s3://B/films OUT=s3://B/labels
	@test -n "$(FILMS)" && test -n "$(OUT)" || { echo "make submit FILMS=… OUT=… [PACK=$(PACK)] [OPTIONS='--every 8'] [ADDRESS=$(ADDRESS)]" >&2; exit 2; }
	RAY_AUTH_MODE=token $(BIN)/ray job submit --address $(ADDRESS) --working-dir . -- \
	  python -m pipelines.label $(FILMS) --pack $(PACK) --out $(OUT) $(OPTIONS)

test: ## lint beside tests in a browser, unit tests, then tests on a local Ray
	@$(MAKE) --no-print-directory -j 2 lint pages
	$(BIN)/python -m pytest tests/unit -n 2 -m "not chaos"
	$(BIN)/python -m pytest tests/ray -n 2 --dist loadfile --no-loadscope-reorder -m "not chaos"

pages: $(INSTALLED) browser ## tests of the pages in a browser
	$(BIN)/python -m pytest tests/browser

chaos: $(INSTALLED) ## the slow tests: more kills, hangs, lost nodes, storage, nested trials (an hour)
	$(BIN)/python -m pytest tests/unit -n 2 -m chaos
	$(BIN)/python -m pytest tests/ray -m chaos

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

film: $(FILM) ## fetch the whole film (50 MB) and check its digest

$(FILM): | $(INSTALLED)
	$(BIN)/insideout data film --out $@

data: $(EXPORTS) ## write the bundled labels as training data

$(EXPORTS): | $(FILM)
	$(BIN)/insideout data exports --film $(FILM) --labels data/bbb --out data/exports

bench: $(FILM) ## race the student project's way on two minutes of the film
	$(BIN)/python benchmarks/bench.py

clean: ## remove results and caches; keeps .venv and the film
	rm -rf out data/exports build .mypy_cache .ruff_cache .pytest_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
