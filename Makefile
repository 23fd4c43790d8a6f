# K2 Pipeline: `make demo` runs the whole recipe on this machine, `make test` passes the tests.
# TORCH chooses the build of torch. From the package index a Linux machine gets the one with CUDA, gigabytes of it;
# README says how to take the small one.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
RUN ?= demo

.PHONY: demo test unit journeys golden lint clean

demo: $(VENV)/.installed
	$(BIN)/k2 run k2_tiny --run $(RUN) --ui

test: lint unit

unit: $(VENV)/.test-installed .venv-s3/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

journeys: $(VENV)/.test-installed .venv-s3/.installed
	$(BIN)/python -m pytest -m "slow and not gpu" --timeout 900

golden: $(VENV)/.test-installed
	$(BIN)/python -m pytest tests/journey/test_golden.py -m slow --regenerate-golden

lint: $(VENV)/.test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing $(TORCH) into $(VENV): about a minute, longer where it comes with CUDA"
	@$(BIN)/python -m pip install --quiet $(TORCH)
	@echo "installing the project and its libraries: one or two minutes"
	@$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	@echo "installing what the tests need"
	@$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

# OpenStack Swift with its S3 API is the real store that the publishing tests talk to; its pins stay apart from ours.
.venv-s3/.installed:
	@echo "installing the S3 server that the publishing tests talk to"
	@$(PYTHON) -m venv .venv-s3
	@.venv-s3/bin/python -m pip install --quiet "swift>=2.38,<2.39" "setuptools<81"
	touch $@

clean:
	rm -rf $(VENV) .venv-s3 build *.egg-info
