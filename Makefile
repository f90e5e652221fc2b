# `make demo` and `make test` each work as the first command on a machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-parity clean
demo: $(VENV)/.runtime
	$(BIN)/python main.py --workdir=runs/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -q tests

test-parity: $(VENV)/.parity
	$(BIN)/python -m pytest -q tests_parity

# One stamp a level: a level is installed again only when its list of pinned versions changes.
$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.runtime $(VENV)/.test $(VENV)/.parity: $(VENV)/.%: requirements/%.txt $(VENV)/.python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/.test: requirements/runtime.txt
$(VENV)/.parity: requirements/runtime.txt requirements/test.txt

clean:
	rm -rf $(VENV) .cache
