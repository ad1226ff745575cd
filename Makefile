# Two commands do everything: `make demo` and `make test`. Each sets up .venv first, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check claims lint install clean

demo: install
	$(BIN)/sagekit demo $(if $(HEADLESS),--headless)

test: install lint
	$(BIN)/python -m pytest

check: install lint
	$(BIN)/python -m pytest tests -m "not slow"

claims: install  # the documents' numbers against what made them
	$(BIN)/python benchmarks/claims.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "sagekit needs Python 3.10 to 3.13; name one with: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build runs
