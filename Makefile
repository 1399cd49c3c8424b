# `make demo` and `make test` do all their own set-up: they need Python 3.11 and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# the pip that comes with Python 3.11 takes a third longer
PIP := 26.3
# Modules of the environment are compiled when they are first used: half of the installation's time otherwise, most of it for
# modules that nobody imports. So that variable, which forbids to keep them, must be empty.
export PYTHONDONTWRITEBYTECODE :=
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo grid bench-stats test demo-check ddp-test slow-test slurm-test lint format smoke bench bench-overfit real-mr clean-venv

demo: $(STAMP)
	$(ONE_THREAD) $(BIN)/snakemake --cores $(CORES)
	@cat results/demo/report/main_table.md
	@echo
	@echo "table:   results/demo/report/main_table.md (.csv, .tex)"
	@echo "figures: results/demo/report/figures/"
	@echo "report:  results/demo/report/report.html"

# the whole grid, three detectors from all their initialisations, in miniature
grid: $(STAMP)
	$(ONE_THREAD) $(BIN)/snakemake --cores $(CORES) --configfile config/grid.yaml
	@cat results/grid/report/main_table.md
	@echo "report:  results/grid/report/report.html"

test: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

# what the demo's scores are worth: against thresholding, random boxes, an untrained network, shuffled truth
demo-check: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -m demo -s tests/demo

# whole trainings by two processes on the CPU: what one would train, ended by a signal, a rank killed
ddp-test: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -m ddp tests/training/test_distributed.py

# what takes minutes each: whole studies with given checkpoints, cells of another group, rows of nnDetection's stand-in
slow-test: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow

# studies through a real Slurm of one node, which is started for it; half an hour
slurm-test: $(STAMP)
	@if ! tests/slurm/start_slurm.sh; then echo "slurm-test: skipped, no Slurm can be started here (Debian, root, no other Slurm)"; \
	else $(ONE_THREAD) $(BIN)/python -m pytest -m slurm -s tests/slurm; status=$$?; tests/slurm/stop_slurm.sh; exit $$status; fi

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

smoke: $(STAMP)
	$(ONE_THREAD) $(BIN)/snakemake --cores $(CORES) --configfile config/smoke.yaml

# one training step at full size: seconds and memory; views and step of every pre-training method
bench: $(STAMP)
	$(BIN)/python benchmarks/full_size_step.py
	$(ONE_THREAD) $(BIN)/python benchmarks/pretraining_views.py --size demo

# every kind of detector learns four volumes by heart: up to ten minutes each, status 1 when one cannot
bench-overfit: $(STAMP)
	$(ONE_THREAD) $(BIN)/python benchmarks/overfit.py

# false-positive rate, power and coverage of the study's statistics, on simulated studies: some minutes
bench-stats: $(STAMP)
	$(ONE_THREAD) $(BIN)/python benchmarks/calibration.py

# the real MR volumes of DETPRETRAIN_REAL_DATA (config/README.md)
real-mr: $(STAMP)
	$(ONE_THREAD) $(BIN)/snakemake --cores $(CORES) --configfile config/real_mr.yaml

# pip alone takes a CPU build of torch 2.13.0 where one is offered; the pins are exact, constraints.txt holds the rest
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "'$(PYTHON)' is not Python 3.11: install it, or call make PYTHON=/path/to/python3.11"; exit 1; }
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip==$(PIP)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	touch $@

clean-venv:
	rm -rf $(VENV)
