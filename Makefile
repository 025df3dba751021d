# make demo   set up and run the main job on the bundled checkpoint
# make test   set up, lint, check types, run every test
# make fast   the tests without the slow ones
# make check  ruff and mypy alone
# make study  the paper's experiment at its smallest, with a report: runs/study-quick
# make finetune-table CKPT=runs/pretrain   pre-trained beside random starts on every task
# make bench  measure speed and memory on this machine; PARTS="merge distance": only those
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Another package index for PyTorch, e.g. one that serves a CUDA build: make test TORCH_INDEX=https://...
TORCH_INDEX ?=
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: install demo test fast check bench study finetune-table clean
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python fixtures/demo.py $(BIN)/vlmerge

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -n auto --dist loadgroup

fast: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadgroup -m 'not slow'

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(PARTS)

study: $(STAMP)
	$(BIN)/vlmerge study

finetune-table: $(STAMP)
	$(BIN)/python -m benchmarks.finetune $(CKPT)
	$(BIN)/python -m benchmarks.render

clean:
	rm -rf $(VENV) build demo *.egg-info
