# The few commands of this project. `make` alone explains them.
SHELL := bash
.DEFAULT_GOAL := help
export CARGO_TERM_COLOR ?= auto
MODELS := $(CURDIR)/.cache/models
export FERRUM_TEST_MODELS ?= $(MODELS)

PROMPT ?= What is the capital of France? Answer in one sentence.
KEEP ?=

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  make images ENGINE=none uses no container engine even where one is'
	@echo '  make demo PROMPT="..." asks something else; make demo KEEP=1 leaves it running'

.PHONY: demo
demo: ## Build, fetch real weights, start everything from a manifest, stream an answer
	@PROMPT='$(subst ','\'',$(PROMPT))' KEEP='$(KEEP)' scripts/demo.sh

.PHONY: test
test: ## Every test that can run here (fetches models, sets up what is missing)
	@scripts/test.sh

.PHONY: check
check: ## The fast loop: format, lints, unit tests that need no weights
	@scripts/check.sh

.PHONY: models
models: ## Fetch the real weights that tests and benchmarks use into .cache/models
	@scripts/fetch-test-models.py

.PHONY: crds
crds: ## Write crds/generated and docs/reference from the Rust types
	cargo run -q -p ferrum-crds --bin crdgen

.PHONY: images
images: ## OCI archives in target/images: with docker or buildah from source, else without any of them
	@images/build.py --engine '$(or $(ENGINE),auto)'

.PHONY: cluster-up
cluster-up: ## Start a real Kubernetes on this machine: two nodes, a namespace of its own (needs root)
	@e2e/cluster/cluster.py up

.PHONY: cluster-down
cluster-down: ## Remove that cluster and all it made, also after a crash
	@e2e/cluster/cluster.py down

.PHONY: e2e
e2e: ## The tests on a real Kubernetes: that of KUBECONFIG, else one of its own; TEST=cluster_... for one file
	@scripts/e2e.sh $(TEST)

.PHONY: bench-cpu
bench-cpu: ## Compare with llama.cpp on this CPU, in one run (builds the peer once, about 7 minutes)
	@scripts/bench-cpu.sh

.PHONY: bench-kernels
bench-kernels: ## Every CPU kernel against this machine's measured limits
	cargo bench -q -p ferrum-kernels

.PHONY: bench-router
bench-router: ## What the router adds to a request
	cargo bench -q -p ferrum-router --bench overhead

.PHONY: cuda-toolkit
cuda-toolkit: ## Fetch nvcc (from PyPI, 300 MB) into .cache/cuda-toolkit, for builds with the feature cuda
	@scripts/gpu/fetch-toolkit.sh

.PHONY: gpu-bundle
gpu-bundle: ## One folder (.cache/gpu-bundle) that runs tests and benchmarks on a machine with a GPU and no Rust
	@PACK=1 scripts/gpu/bundle.sh

.PHONY: test-emulated
test-emulated: cuda-toolkit ## Tests of the CUDA backend without a GPU: kernels run from their PTX, by an emulator
	@scripts/gpu/emulated.sh

.PHONY: test-gpu
test-gpu: gpu-bundle models ## Every test that needs a GPU, on this machine
	@.cache/gpu-bundle/run-gpu-tests.sh
	@.cache/gpu-bundle/run-gpu-smollm2.sh $(MODELS)

.PHONY: bench-gpu
bench-gpu: gpu-bundle ## Decode and prefill of a random Qwen3-4B on this GPU
	@.cache/gpu-bundle/run-gpu-bench.sh

.PHONY: build
build: ## Build the ferrum program in release mode
	cargo build --release -p ferrum-cli
