# Two commands for a fresh clone:
#
#   make picture    generate images with the model in this repository (into pictures/)
#   make test       run the tests
#
# Besides them: make test-quick, the tests that take no time, for every change; and three that take long:
#
#   make hostile    run the program on ten thousand hostile files and requests (tests/hostile)
#   make test-settings  the tests that take no time, under other kernels, threads and orders, and each alone
#   make findings   run the tests of everything that was once found wrong (tests/findings/record.yaml)
#
# and two for whoever rebuilds a part of the house:
#
#   make golden BASE=<commit>   compare what this tree and another commit generate, bit for bit; some cases
#                               only: GOLDEN="--only caption"; those of a minute each too: GOLDEN=--slow
#   make counts                 lines, files a prompt passes, circles of imports and the like
#
# one for whoever wants to know how fast it is:
#
#   make bench                  ours against other systems on this machine, in ten minutes (benchmarks/README.md)
#
# and one for releases:
#
#   make dist       wheel and sdist with manual pages, checked, into dist/
#   make site       the documentation with a page that generates in the browser, into site/ (npm fetches its runtime)
#
# Both make a virtual environment in .venv first, with uv if it is there and pip if not. To choose:
#
#   PYTHON  the interpreter to start from, 3.11 or later
#   VENV    where the environment goes
#   TORCH   the PyTorch to install. On Linux the package index's own build brings several GB of CUDA
#           libraries; where pip knows a place with CPU builds (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL, which
#           are passed on to uv), the CPU build of this version is taken instead. TORCH= takes any version
#           that the package allows.
#   PROMPTS, OUT, WORKERS  what to generate, where to, how many processes test
#   PYTEST, CASES          more options for pytest, how many hostile cases

PYTHON  ?= python3
VENV    ?= .venv
TORCH   ?= torch==2.13.0
OUT     ?= pictures
WORKERS ?= 2
CASES   ?= 10000
PROMPTS ?= "一个蓝色的小怪物，圆眼睛，微笑，红色背景" "belted cyan planet in the starry sky, a thin ring, one moon" \
            "粉色的圆花盆里种着仙人掌，笑眼，微笑，绿色背景" "landscape of green rolling hills under a yellow sun, cyan sky"

UV := $(shell command -v uv 2>/dev/null)
BIN = $(VENV)/bin

ifdef UV
export UV_FIND_LINKS       ?= $(PIP_FIND_LINKS)
export UV_EXTRA_INDEX_URL  ?= $(PIP_EXTRA_INDEX_URL)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python
else
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: picture test test-quick test-shuffled test-settings hostile findings golden counts bench dist site lint format clean

picture: $(VENV)/.cogview
	$(BIN)/cogview generate $(PROMPTS) -n 4 --seed 7 --grid -o $(OUT)

test: $(VENV)/.cogview-dev
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST)

test-quick: $(VENV)/.cogview-dev
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(PYTEST)

test-shuffled: $(VENV)/.cogview-dev
	$(BIN)/python -m pytest -n $(WORKERS) -p randomly $(PYTEST)

test-settings: $(VENV)/.cogview-dev
	$(BIN)/python tools/test_settings.py $(SETTINGS)

hostile: $(VENV)/.cogview-dev
	OMP_NUM_THREADS=1 PYTHONPATH=src:. $(BIN)/python -m tests.hostile --cases $(CASES) \
	    --out benchmarks/results/hostile.json

findings: $(VENV)/.cogview-dev
	PYTHONPATH=src:. $(BIN)/python -m tests.findings $(FINDINGS)

golden: $(VENV)/.cogview-dev
	$(BIN)/python tools/golden.py $(BASE) $(GOLDEN)

counts: $(VENV)/.cogview-dev
	$(BIN)/python tools/counts.py

PEERS = dalle-pytorch einops axial-positional-embedding rotary-embedding-torch g-mlp-pytorch omegaconf packaging ftfy \
        regex transformers tokenizers huggingface-hub tqdm ctranslate2

bench: $(VENV)/.cogview-dev
	$(INSTALL) --no-deps --target build/peers $(PEERS)
	$(BIN)/python benchmarks/scoreboard.py --peers build/peers --out benchmarks/results/scoreboard.json

dist: $(VENV)/.cogview-dev
	rm -rf build/man dist
	$(BIN)/python tools/man_pages.py build/man
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*

site: $(VENV)/.cogview-dev
	COGVIEW_DEMO=1 $(BIN)/mkdocs build --strict
	$(BIN)/cogview page site/demo

lint: $(VENV)/.cogview-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports

format: $(VENV)/.cogview-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
ifdef UV
	$(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif

$(VENV)/.torch: $(BIN)/python
	$(if $(TORCH),$(INSTALL) "$(TORCH)")
	touch $@

$(VENV)/.cogview: pyproject.toml $(VENV)/.torch
	$(INSTALL) --editable .
	touch $@

$(VENV)/.cogview-dev: pyproject.toml $(VENV)/.torch
	$(INSTALL) --editable ".[dev]"
	touch $@ $(VENV)/.cogview
