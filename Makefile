# Every target works on a new machine with Python >= 3.10, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo
NEXT := .venv-next
RIVALS := .bench/.installed
SPHINX := $(VENV)/.sphinx
BUNDLE := bundles/otoscopy_chain_classification

.PHONY: help install demo docs test test-portable test-next test-slow test-faults bench lint format bundles models dist clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv and install the package with what its tests need

$(STAMP): setup.cfg setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt monailabel
	touch $@

# the bundle's default on eighty images: the chain asks for four times five labels; three tenths of the ears are for test.
# Without the column "split" of the synthetic images, no label goes to validation. More threads make a busy machine slow.
demo: $(STAMP) ## Turn twenty labels into a model on synthetic otoscopic images, with its report (under a minute)
	rm -rf $(DEMO)
	$(BIN)/python -m monai_weckd phantom --kind otoscopy --out $(DEMO)/data --items 80 --seed 0
	cut -d, -f1-3 $(DEMO)/data/manifest.csv > $(DEMO)/manifest.csv && mv $(DEMO)/manifest.csv $(DEMO)/data/
	OMP_NUM_THREADS=1 $(BIN)/python -m monai.bundle run --config_file $(BUNDLE)/configs/train.json --bundle_root $(BUNDLE) \
		--dataset_dir $(DEMO)/data --output_dir $(DEMO)/output \
		--num_stages 4 --plan#settings#shard_size 5 --test_fraction 0.3
	$(BIN)/python -m monai_weckd report --output_dir $(DEMO)/output

docs: $(SPHINX) ## Build docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -b html -W --keep-going docs docs/_build/html

$(SPHINX): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

test: $(STAMP) lint ## Check style, types and imports, then run the tests (about twelve minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not faults" -n 2 --dist loadfile --no-loadscope-reorder

# as on a processor without AVX: other kernels of torch, oneDNN and MKL, which round otherwise
test-portable: $(STAMP) ## Run the tests that compare numbers under another instruction set (about six minutes)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests -m "portable and not slow and not faults" -n 2 --dist loadfile

# neither constraints.txt nor a stable MONAI; try another Python with PYTHON=python3.13
test-next: ## Run the tests with the newest torch and the weekly build of MONAI
	rm -rf $(NEXT)
	$(PYTHON) -m venv $(NEXT)
	$(NEXT)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	$(NEXT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps monailabel
	$(NEXT)/bin/python -m pip uninstall --quiet --yes monai
	$(NEXT)/bin/python -m pip install --quiet --disable-pip-version-check --pre monai-weekly
	OMP_NUM_THREADS=1 $(NEXT)/bin/python -m pytest -m "not slow and not faults" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) ## Run the tests that take long, and the property tests with new examples
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest -m "hypothesis and not slow" --hypothesis-profile=search

test-faults: $(STAMP) ## Kill trainings at arbitrary moments, resume them, and compare the results
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults -m "faults or not faults" -v

# without what they require: torchvision has no build beside a CPU-only torch, and of the rest little is used
$(RIVALS): benchmarks/rivals.txt $(STAMP)
	rm -rf .bench
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .bench --requirement $<
	touch $@

bench: $(RIVALS) ## Measure speed and memory against rivals (about forty minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

lint: $(STAMP) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bundles: $(STAMP) ## Write the files that the bundles share from their template
	$(BIN)/python bundles/build.py

models: $(STAMP) ## Train each bundle on the real images in DATA=folder, into its models/model.pt
	test -d "$(DATA)" || { echo "DATA: expected a folder with otoscopy, blood_smear, ..., got '$(DATA)'. Pass DATA=..."; exit 1; }
	for pair in otoscopy:otoscopy blood_smear:blood_smear brain_mri:brain_mri brain_mri_3d:hippocampus_mri_3d; do \
		bundle=bundles/$${pair%%:*}_chain_classification && mkdir -p $$bundle/models && \
		$(BIN)/python -m monai.bundle run --config_file $$bundle/configs/train.json --bundle_root $$bundle \
			--dataset_dir $(DATA)/$${pair##*:} --output_dir $$bundle/output && \
		cp $$bundle/output/model.pt $$bundle/output/chain.json $$bundle/output/predictions.csv $$bundle/models/ || exit 1; \
	done

dist: $(STAMP) ## Build the wheel and the source archive, in dist/
	$(BIN)/python -m build

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(NEXT) $(DEMO) .bench docs/_build build dist *.egg-info
