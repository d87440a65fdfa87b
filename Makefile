# make study | setup | test | lab | lint | site | browser | clean.  Needs Python 3.11 or 3.12, make and git; everything else lives in .venv.
#   PYTHON=python3.12                  another interpreter
#   PROFILE=smoke                      another profile for `make study`
#   LAB_ARGS="--no-browser --port 8899"  extra arguments of JupyterLab, for `make lab`
#   PIP_ARGS="--index-url URL ..."     extra arguments of pip, e.g. an index with CPU-only builds of torch
PYTHON ?= $(firstword $(foreach name,python3.12 python3.11 python3,$(if $(shell command -v $(name) 2>/dev/null && $(name) -c "import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))" 2>/dev/null),$(name))))
PROFILE ?= organism
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SITE_STAMP := $(VENV)/.installed-site

.PHONY: study test lab lint site browser clean setup
.DEFAULT_GOAL := study

setup: $(STAMP)

# The stamp is written last, so that an interrupted installation is taken up again.
$(STAMP): requirements.lock.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; run make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c "import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f'error: Python {v[0]}.{v[1]} found; run make PYTHON=/path/to/python3.12')"
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar off $(PIP_ARGS) -r requirements.lock.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	touch $@

study: $(STAMP)
	$(BIN)/saferlrm run --profile $(PROFILE)

# One invocation and one summary: unit and structural tests, then every notebook. Only cells tagged
# nbval-check-output are compared; the others must run.
test: $(STAMP)
	$(BIN)/python -m pytest tests notebooks --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
		--nbval-sanitize-with tests/nbval_sanitize.cfg $(PYTEST_ARGS)

# From the root of the repository, so that the notebooks' links into docs/ work.
lab: $(STAMP)
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" notebooks/00_start_here.ipynb $(LAB_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .

# The web site, from the notebooks as they are stored: nothing is executed, and the pages fetch nothing.
$(SITE_STAMP): $(STAMP) site/requirements.lock.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar off $(PIP_ARGS) --no-deps -r site/requirements.lock.txt
	touch $@

site: $(SITE_STAMP)
	rm -rf build/site
	$(BIN)/python site/stage.py build/site-source
	$(BIN)/python -m sphinx -b html -q -W --keep-going -c site -d build/site-doctrees build/site-source build/site
	@echo "the site is in build/site; open build/site/index.html"

# The site and JupyterLab in a real Chromium; without chromium and chromedriver the tests are skipped and say so.
browser: site
	$(BIN)/python -m pytest tests/browser -rs $(PYTEST_ARGS)

# Computed stages and runs go too; shipped results stay.
clean:
	rm -rf $(VENV) store runs build dist *.egg-info .pytest_cache .ruff_cache
