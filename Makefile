PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := out/demo

.PHONY: demo test lint format bench clean

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gvit needs Python 3.11 or newer: try  make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/gvit demo $(DEMO)
	$(BIN)/gvit encode $(DEMO)/digits $(DEMO)/digits.gvit --num-gaussians 64 --size 32 --overwrite
	$(BIN)/gvit encode $(DEMO)/photos $(DEMO)/photos.gvit --overwrite
	$(BIN)/gvit info $(DEMO)/digits.gvit
	$(BIN)/gvit info $(DEMO)/photos.gvit
	$(BIN)/gvit view $(DEMO)/digits.gvit -o $(DEMO)/digits.png
	$(BIN)/gvit view $(DEMO)/photos.gvit -o $(DEMO)/photos.png
	$(BIN)/gvit view $(DEMO)/photos.gvit chelsea -o $(DEMO)/chelsea.png
	rm -rf $(DEMO)/digits.run
	$(BIN)/gvit-train --shards $(DEMO)/digits.gvit --out $(DEMO)/digits.run --recipe tiny --epochs 8

test: $(STAMP)
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/gvit bench render
	$(BIN)/gvit bench render --size 32 --num-gaussians 64
	$(BIN)/gvit bench fit
	$(BIN)/gvit bench loader
	$(BIN)/gvit bench train
	$(BIN)/gvit bench train --guidance refine
	$(BIN)/gvit bench train --guidance direct

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache out
