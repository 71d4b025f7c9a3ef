# Two commands: `make demo` sets everything up and runs the main job, `make test` sets everything up and passes the tests.
# A fresh machine needs git, make and Python 3.11 or newer; everything else goes into the folder .venv beside this file.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The oldest versions of the dependencies are made for the oldest Python.
OLDEST_PYTHON ?= python3.11
OLDEST := .venv-oldest
# How many seconds `make fuzz` looks for inputs that break a reader.
FUZZ_SECONDS ?= 600

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-avx2 test-all test-changed test-oldest check format docs fuzz clean

help: ## what there is to make
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/demo ## set up, train a ViT on the embedded digits, evaluate, classify, write a report
	$(BIN)/vitkit demo

# Bytecode is stored even where PYTHONDONTWRITEBYTECODE is set: tests start processes that would compile vitkit again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q

# Limits that make oneDNN, torch's own operations and the kernels use what a CPU with AVX2 has, whatever this CPU has.
# The other pass checks the shapes of the same tests.
AVX2       := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 VITKIT_KERNELS=avx2 VITKIT_CHECK_SHAPES=0
# Without the files whose time is that of decoding photos, exporting, or starting processes that compute nothing.
AVX2_TESTS := tests/inference tests/kernels tests/bench tests/checkpoints/test_heads.py \
	$(addprefix --ignore=tests/inference/test_,hostile_folder.py deit_tiny.py exporters.py export_files.py) \
	$(addprefix --ignore=tests/inference/test_,changed_models.py exported_commands.py exported_tasks.py) \
	$(addprefix --ignore=tests/inference/test_,image_inputs.py onnx_options.py python_edges.py) \
	$(addprefix --ignore=tests/,inference/test_hostile_programs.py bench/test_bench_rounds.py bench/test_bench_table.py)

test: $(VENV)/dev test-avx2 ## set up and run the tests (under 5 minutes)
	$(PYTEST)

test-avx2: $(VENV)/dev ## engine, prediction, kernels, benchmarks and heads as on an x86 CPU with AVX2 alone
ifeq ($(filter x86_64 amd64 AMD64,$(shell uname -m)),)
	@echo "test-avx2: skipped, because this CPU ($(shell uname -m)) is no x86 CPU and has no AVX2"
else
	$(AVX2) $(PYTEST) $(AVX2_TESTS)
endif

test-all: $(VENV)/dev test-avx2 ## the slow tests too
	$(PYTEST) -m ""

test-changed: $(VENV)/dev ## the slow tests of the folders that changed in the last four hours, those that fit 15 minutes
	$(BIN)/python scripts/slow_tests.py

test-oldest: $(OLDEST)/test ## the tests with the oldest versions of all dependencies (constraints-oldest.txt)
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist loadfile -q

check: $(VENV)/dev ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/dev ## put the code into form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev ## write the generated pages (the commands' help)
	$(BIN)/python docs/generate.py

fuzz: $(VENV)/dev ## ten minutes of looking for inputs that break a reader
	VITKIT_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -n 2 tests/fuzz

clean: ## remove what was installed and built
	rm -rf $(VENV) $(OLDEST) build dist src/*.egg-info src/vitkit/kernels/*.so .pytest_cache .ruff_cache .hypothesis

$(VENV)/python: scripts/venv.py
	$(PYTHON) scripts/venv.py $(VENV)
	@touch $@

$(VENV)/demo: $(VENV)/python pyproject.toml constraints.txt $(wildcard src/vitkit/kernels/*.[ch])
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/dev: $(VENV)/demo pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

$(OLDEST)/python: scripts/venv.py
	$(OLDEST_PYTHON) scripts/venv.py $(OLDEST)
	@touch $@

$(OLDEST)/test: $(OLDEST)/python pyproject.toml constraints-oldest.txt $(wildcard src/vitkit/kernels/*.[ch])
	$(OLDEST)/bin/python -m pip install -q -c constraints-oldest.txt -e '.[data,fast,test]'
	@touch $@
