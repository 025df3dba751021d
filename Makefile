# make demo   set up and run the main job on the bundled checkpoint
# make test   set up, lint, check types, run every test
# make fast   the tests without the slow ones
# make check  ruff and mypy alone
# make study  the paper's experiment at its smallest, with a report: runs/study-quick
# make finetune-table CKPT=runs/pretrain   pre-trained beside random starts on every task
# make gpu    what a quarter of an hour with a GPU can tell; without one a rehearsal. PARTS="tests works": only those
# make wheels the packages that such a machine may lack, into .whl, where it has no network
# make docs   the pages in docs/ as a site, strictly: site/index.html
# make mutants  small faults put into the code one at a time: which does no test notice? SAMPLE=320 SEED=1
# make bench  measure speed and memory on this machine; PARTS="merge distance": only those
PYTHON ?= python3
WHEELS := .whl
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Another package index for PyTorch, e.g. one that serves a CUDA build: make test TORCH_INDEX=https://...
TORCH_INDEX ?=
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: install demo test fast check docs bench mutants gpu wheels study finetune-table clean
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

docs: $(STAMP)
	$(BIN)/python -m mkdocs build

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(PARTS)

SAMPLE ?= 320
SEED ?= 1
mutants: $(STAMP)
	$(PIP) -e '.[dev,mutants]'
	$(BIN)/python -m benchmarks.mutants --sample $(SAMPLE) --seed $(SEED)

wheels:
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		-d $(WHEELS) -r benchmarks/wheels.txt

# With the environment of make install, or where there is none with the machine's own Python and the wheels.
ifneq ($(wildcard $(BIN)/python),)
gpu:
	$(BIN)/python -m benchmarks.quarter $(PARTS)
else
gpu: $(WHEELS)/site
	PYTHONPATH=$(CURDIR)/$(WHEELS)/site:$(CURDIR) $(PYTHON) -m benchmarks.quarter $(PARTS)
endif

$(WHEELS)/site:
	$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --target $@ $(WHEELS)/*.whl

study: $(STAMP)
	$(BIN)/vlmerge study

finetune-table: $(STAMP)
	$(BIN)/python -m benchmarks.finetune $(CKPT)
	$(BIN)/python -m benchmarks.render

clean:
	rm -rf $(VENV) build demo site *.egg-info
