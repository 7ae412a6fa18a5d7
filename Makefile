# `make` alone lists the commands. Each sets up what it needs, once:
#
#   make demo                      in .venv, with the torch that constraints.txt pins
#   make demo TORCH=cpu            the same, from PyTorch's index of builds without CUDA
#   make demo PYTHON=python3.12    the interpreter that .venv is made with
#
# An active environment (venv or conda) that has torch is used instead, as it is: its torch is not exchanged.

PYTHON ?= python3
TORCH ?=
# As in pyproject.toml; here it decides whether an active environment will do.
OLDEST_TORCH := 2.11

ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH=$(TORCH) is not known; use TORCH=cpu, or leave it out for the default build)
endif

# --- Which environment ------------------------------------------------------------------------------------------------
# ACTIVE_TORCH is the version of torch in the active environment if it can be used, else empty. Only importing it shows
# that; it takes seconds, so targets that need no environment do without.
ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
ACTIVE_TORCH :=
ifneq ($(ACTIVE),)
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
ACTIVE_TORCH := $(shell "$(ACTIVE)/bin/python" -c "import sys, torch; from importlib.metadata import version; \
number = lambda text: tuple(map(int, text.split('.')[:2])); have = version('torch'); \
print(have if sys.version_info >= (3, 11) and number(have) >= number('$(OLDEST_TORCH)') else '')" 2>/dev/null)
endif
endif

ENV := $(if $(ACTIVE_TORCH),$(ACTIVE),.venv)
BIN := $(ENV)/bin

# --- Setting it up ----------------------------------------------------------------------------------------------------
# Which torch: the one already there, named so that pip cannot exchange it; or the pinned one.
KEEP_OR_PIN := $(if $(ACTIVE_TORCH),"torch==$(ACTIVE_TORCH)",-c constraints.txt)
INDEX := $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/$(TORCH))
PIP_INSTALL := "$(BIN)/python" -m pip --disable-pip-version-check -q install $(INDEX) $(KEEP_OR_PIN)

# The stamps stand inside the environment, so that they go with it, and hold the checkout that was installed last: an
# environment that two checkouts share is installed anew when it changes hands.
STAMP := $(ENV)/.synthgrad-installed
DEV_STAMP := $(ENV)/.synthgrad-dev-installed
INSTALLED_FROM := $(file <$(STAMP))
DEV_INSTALLED_FROM := $(file <$(DEV_STAMP))

# make splits names at blanks; an environment's path may hold some.
BLANK := $(subst ,, )
one_name = $(subst $(BLANK),\$(BLANK),$(1))
INSTALL := $(call one_name,$(STAMP))
DEV_INSTALL := $(call one_name,$(DEV_STAMP))

.DEFAULT_GOAL := help
# Two installs into one environment would meet.
.NOTPARALLEL:
.PHONY: help demo lessons docs test lint types results clean anew

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "TORCH=cpu          install a torch without CUDA (smaller)"
	@echo "PYTHON=python3.12  make .venv with this interpreter (3.11 or newer)"

demo: $(INSTALL) ## compare synthetic gradients with back-propagation on handwritten digits
	@"$(BIN)/synthgrad" compare

lessons: $(INSTALL) ## open the lessons, from back-propagation to the complete unlock
	@$(PIP_INSTALL) -e '.[lessons]'
	"$(BIN)/python" -m jupyter lab lessons

docs: $(INSTALL) ## build the documentation into build/docs, to be opened at index.html
	@$(PIP_INSTALL) -e '.[docs]'
	"$(BIN)/python" docs/site.py
	"$(BIN)/python" -m zensical build --strict --clean

test: lint types ## run every check: style, types, tests
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q -n auto --maxprocesses 8

lint: $(DEV_INSTALL) ## check style and formatting
	"$(BIN)/python" -m ruff check .
	"$(BIN)/python" -m ruff format --check .

types: $(DEV_INSTALL) ## check the types
	"$(BIN)/python" -m pyrefly check --python-interpreter-path "$(BIN)/python"

# Stop other work first: times are measured. MNIST is found through SYNTHGRAD_DATA, or add --download.
SIGNALS := bp,zero,dni,cdni,logistic,sobolev,critic,local,local-block,predsim,dfa,stale
DEEPER := bp,zero,cdni,logistic,sobolev,local,local-block
PRACTICE := bp,cdni,cdni-replay,cdni-average,cdni-normal,cdni-clip,cdni-warm,cdni-true
WITHOUT := bptt,bptt:lr=3e-3,bptt:lr=3e-4,logistic,sobolev,local,dni,dni:replay=3,logistic:lr=3e-4,logistic:ahead=4,logistic:synthesizer_lr=1e-3
RATES := $(foreach method,bptt-8 bptt-5 logistic-5,$(method):lr=1e-3 $(method):lr=3e-3 $(method):lr=6e-3)
CHOSEN := bptt-8:lr=3e-3,bptt-5:lr=1e-3,logistic-5:lr=1e-3,dni-5:lr=1e-3,bptt-8:lr=1e-3
TEXT ?= $(SYNTHGRAD_DATA)/tinyshakespeare
results: $(INSTALL) ## measure the committed results anew (four hours), and the tables made from them
	rm -f results/*.jsonl results/*.json
	"$(BIN)/synthgrad" compare --seeds 10 --results results/digits.jsonl
	"$(BIN)/synthgrad" compare --methods $(PRACTICE) --seeds 5 --results results/digits-practice.jsonl
	"$(BIN)/synthgrad" compare --data mnist --methods $(SIGNALS) --seeds 5 --results results/mnist.jsonl
	"$(BIN)/synthgrad" compare --data mnist --methods bp,unlock --seeds 3 --results results/mnist-unlock.jsonl
	"$(BIN)/synthgrad" compare --data mnist --methods bp,critic-zero --seeds 3 --results results/mnist-critic.jsonl
	"$(BIN)/synthgrad" compare --data mnist --layers 6 --methods $(DEEPER) --seeds 5 --results results/mnist-6.jsonl
	"$(BIN)/synthgrad" compare --data mnist --model convolutional --channels 16 --epochs 3 --lr 3e-3 --synthesizer-decay \
	    --methods bp,zero,dni,local,sobolev,local-block,critic-block --seeds 3 --results results/mnist-cnn.jsonl
	"$(BIN)/synthgrad" compare --data text --data-dir "$(TEXT)" --methods bp,zero,local,local-block --seeds 3 \
	    --results results/shakespeare.jsonl
	mkdir -p results/recurrent
	rm -f results/recurrent/*.jsonl
	"$(BIN)/synthgrad" recurrent compare --methods bptt,logistic,bptt:lr=3e-3,bptt:lr=3e-4 --seeds 3 \
	    --results results/recurrent/copy.jsonl
	"$(BIN)/synthgrad" recurrent compare --task repeat-copy --methods bptt,logistic --seeds 3 \
	    --results results/recurrent/repeat-copy.jsonl
	"$(BIN)/synthgrad" recurrent compare --methods $(WITHOUT) --steps 5000 --seeds 3 \
	    --results results/recurrent/copy-ablation.jsonl
	"$(BIN)/synthgrad" recurrent compare --task text --data-dir "$(TEXT)" --methods "$(RATES)" --characters 500000 \
	    --evaluations 4 --seeds 1 --results results/recurrent/text-tuning.jsonl
	"$(BIN)/synthgrad" recurrent compare --task text --data-dir "$(TEXT)" --methods $(CHOSEN) --characters 1000000 \
	    --evaluations 5 --seeds 3 --results results/recurrent/text.jsonl
	rm -f results/reproduce/*.jsonl
	for name in table2 single sporadic unlock two-speeds; do "$(BIN)/synthgrad" reproduce $$name || exit 1; done
	for row in "Copy, T = 4" "Repeat Copy, T = 4"; do "$(BIN)/synthgrad" reproduce table1 --only "$$row" || exit 1; done
	for name in step memory interface startup signals recurrent trace transport; do "$(BIN)/synthgrad" bench $$name --rounds 50 --json results/bench-$$name.json || exit 1; done
	"$(BIN)/synthgrad" bench plan --rounds 3 --json results/bench-plan.json
	"$(BIN)/synthgrad" bench latency --rounds 4 --seeds 0 --json results/bench-latency.json
	"$(BIN)/synthgrad" bench pipeline --rounds 5 --json results/bench-pipeline.json
	"$(BIN)/python" -m synthgrad.experiments.pages README.md docs/*.md

clean: ## remove caches and build outputs (.venv and runs/ stay)
	rm -rf build dist .cache .hypothesis .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# Both stamps go first, so that an install that fails is not taken for done; the plain one tells nothing about the
# development tools.
$(INSTALL): pyproject.toml constraints.txt
	@$(set_up)
	@rm -f "$(STAMP)" "$(DEV_STAMP)"
	@$(PIP_INSTALL) -e .
	@echo "$(CURDIR)" >"$(STAMP)"

$(DEV_INSTALL): pyproject.toml constraints.txt
	@$(set_up)
	@rm -f "$(STAMP)" "$(DEV_STAMP)"
	@$(PIP_INSTALL) -e '.[dev]'
	@echo "$(CURDIR)" | tee "$(STAMP)" >"$(DEV_STAMP)"

ifneq ($(INSTALLED_FROM),$(CURDIR))
$(INSTALL): anew
endif
ifneq ($(DEV_INSTALLED_FROM),$(CURDIR))
$(DEV_INSTALL): anew
endif

ifneq ($(ACTIVE_TORCH),)
define set_up
echo "Installing into the active environment $(ENV), which keeps its torch $(ACTIVE_TORCH) ..."; \
"$(BIN)/python" -m pip --version >/dev/null 2>&1 || { \
  echo "$(ENV) has no pip: install pip into it, or deactivate it to have a .venv made here." >&2; exit 1; }
endef
else
define set_up
$(if $(ACTIVE),echo "The active environment has no torch >= $(OLDEST_TORCH) on Python >= 3.11: it is left alone.";) \
echo "Setting up .venv (once, about a minute) ..."; \
if ! $(BIN)/python -c '' 2>/dev/null; then \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo "synthgrad needs Python 3.11 or newer, but $(PYTHON) --version says: $$($(PYTHON) --version 2>&1)" >&2; \
    echo "Name another interpreter: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
  $(PYTHON) -m venv --clear .venv; \
elif ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
  $(BIN)/python -m ensurepip >/dev/null; \
fi
endef
endif
