# `make demo` and `make test` each work as the first command on a machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-parity bench bench-smoke clean
demo: $(VENV)/.runtime
	$(BIN)/python main.py --workdir=runs/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

test-parity: $(VENV)/.parity
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests_parity

bench: $(VENV)/.bench
	$(BIN)/python experiments/benchmarks/run.py

# Shows that the benchmark still runs; its figures mean nothing.
bench-smoke: $(VENV)/.bench
	$(BIN)/python experiments/benchmarks/run.py --scale=smoke --out=runs/bench_smoke

# One stamp a level: a level is installed again only when its list of pinned versions changes.
$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.runtime $(VENV)/.test $(VENV)/.parity $(VENV)/.bench: $(VENV)/.%: requirements/%.txt $(VENV)/.python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/.test $(VENV)/.bench: requirements/runtime.txt
$(VENV)/.parity: requirements/runtime.txt requirements/test.txt

clean:
	rm -rf $(VENV) .cache
