# Everything that is done with the repository; `make help` lists it. Tests and the demo need root (Debian 12 or 13).
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: help demo test check pages tools deb guest bench release clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## Carry out the README's tour: the whole product in a few minutes
	$(PYTHON) -m tests.tour

# Two files of tests beside each other, but for machines: an emulated one keeps two cores busy by itself.
test: check ## Check the sources, then run all three tiers: plain, system (root), vm (QEMU)
	$(PYTHON) -m pytest -m "not vm" --numprocesses=2 --dist=loadfile --durations=15
	$(PYTHON) -m pytest -m vm --durations=15

check: $(STAMP) ## Check formatting, style and types
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

pages: $(STAMP) ## Make the manual pages and shell completions again, from docs/man and the commands themselves
	$(PYTHON) -m pages

tools: ## Install the programs that everything here runs (apt, as root)
	packaging/install-tools

deb: tools ## Build the Debian packages, of guest and host, and print their paths
	packaging/build-deb

guest: $(STAMP) ## Build the test guest, and print its folder
	$(PYTHON) -m tests.cachedguests

bench: $(STAMP) ## Measure what the README claims, draw the plots and write its numbers: 45 minutes without KVM
	$(PYTHON) -m bench --output docs/bench/results.json
	$(PYTHON) -m bench.plots
	$(PYTHON) -m bench.report

release: $(STAMP) ## Test the version that is checked out, build its files into dist/, and tag it
	packaging/release --check
	$(MAKE) test
	packaging/release

clean: ## Remove the virtual environment and what the checks left
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(STAMP): setup.cfg pyproject.toml | tools
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[host,dev,fuzz,bench]'
	touch $@
