# Two commands are enough: `make course` (train the twins, draw the curves), `make test`.
# On Linux without an NVIDIA card, torch's CPU build saves a 2 GB download: see the README.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

# The environment in which `mrl-course run --inplace` stores outputs; a test compares the two.
NBVAL_ENV := MRL_COURSE_DATA=mini HF_HUB_OFFLINE=1 PYTHONHASHSEED=0 TQDM_DISABLE=1 \
  PYTHONWARNINGS=ignore:IProgress \
  HF_DATASETS_DISABLE_PROGRESS_BARS=1 HF_HUB_DISABLE_PROGRESS_BARS=1 \
  MRL_COURSE_UNATTENDED=1 \
  MPLBACKEND=module://matplotlib_inline.backend_inline

# Tests and lessons at a time. Each on one thread: two that use all cores get in each other's way.
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: course test test-elsewhere faults bench lock lessons clean

course: $(VENV)/.installed
	$(BIN)/mrl-course twins --out build/twins

test: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
	$(NBVAL_ENV) $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	  --nbval --nbval-current-env --nbval-cell-timeout=600 --nbval-kernel-startup-timeout=300 \
	  -p no:cacheprovider notebooks
	$(BIN)/python tests/elsewhere.py --training --settings nudge-1

# The lessons as on other machines: threads, kernels, nudged last bits, strangers' settings. An
# hour; ONLY=06,10 picks lessons.
ONLY ?=
test-elsewhere: $(VENV)/.installed
	$(BIN)/python tests/elsewhere.py $(if $(ONLY),--only $(ONLY))

# Plant mistakes in the package, one at a time: each must turn a lesson red. Ten minutes.
faults: $(VENV)/.installed
	$(BIN)/python tests/elsewhere.py --faults

# Made again whenever the lock or the package's own metadata change.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# Measure again what data/results holds; PARTS="speed search" picks some, by the names of the files
# in benchmarks/. Each says at its head how long it takes and what data it needs.
PARTS ?= speed search
bench: $(VENV)/.installed
	for part in $(PARTS); do $(BIN)/python benchmarks/$$part.py || exit 1; done

# Refresh the stored outputs of all lessons.
lessons: $(VENV)/.installed
	$(BIN)/mrl-course run --inplace

# Exact versions of what pyproject.toml names, for every Python and system. Needs `pip install uv`.
# torch stays at the version whose CPU build is tested; its CUDA libraries are left to pip.
lock:
	printf 'torch==2.13.0\n' > build-constraints.txt
	sed -n '/^#/p' requirements.lock > requirements.lock.new
	uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-annotate --no-header \
	  --constraint build-constraints.txt pyproject.toml \
	  | grep -vE '^(nvidia-|cuda-|triton)' >> requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm build-constraints.txt

clean:
	rm -rf $(VENV) build
