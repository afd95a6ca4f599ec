# make demo    install into .venv, distil the bundled miniature, draw a fox with it
# make test    install into .venv, run the whole test suite
# make study   what docs/study.csv lacks of the comparison of methods (all of it: 6 to 8 hours on 2 cores)
# make lint    ruff and mypy            make clean    remove .venv and what the tools left
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin
PIP    := $(RUN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test study lint clean

demo: $(VENV)/installed
	$(RUN)/tdd distill --recipe emoji-4to8
	$(RUN)/tdd sample "a fox" --steps 4 --clip-x0
	@echo "Done. The pictures: samples/ (the fox), and runs/ (the run, with its previews)."

test: $(VENV)/installed-test
	$(RUN)/python -m pytest -q -n logical --maxprocesses 4

study: $(VENV)/installed
	$(RUN)/python -m tdd_cli.bundled.emoji.study

lint: $(VENV)/installed-dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# One stamp per set of extras: an installation repeats only when the dependencies changed.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV) ..."
	$(PIP) -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV) ..."
	$(PIP) -e ".[test]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV) ..."
	$(PIP) -e ".[test,dev]"
	@touch $@ $(VENV)/installed $(VENV)/installed-test

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
