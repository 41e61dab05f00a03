# Cairn. Each target installs what it lacks; with nothing missing that takes no time.

CACHE ?= $(HOME)/.cache/cairn
export CARGO_TARGET_DIR ?= $(CACHE)
export PATH := $(PATH):$(HOME)/.cargo/bin
# The whole workspace, since with fewer packages Cargo would unite their features otherwise and build all twice.
CARGO_FLAGS := --workspace --release --locked --ignore-rust-version
DATA ?= $(CURDIR)/cairn-data
KILLS ?= 100
S3_TESTS ?=
TODAY = $(shell date +%F)
PYTHON ?= python3
# Of `make bench`; see tools/README.md.
SECONDS ?= 10
AGAINST ?=
MINIO ?=
JSON ?=
BENCH_FLAGS ?=
# Of `make scale`.
CHUNKS ?= 5000000
# Of `make simulate`: how many, from which one on; or one alone, with all that happened in it.
SEEDS ?= 10000
FIRST ?= 0
SEED ?=

BUILD_PACKAGES := build-essential clang libclang-dev cmake pkg-config curl ca-certificates

.PHONY: run build test bench space scale torture simulate conformance deps clients clean

run: build
	bin/cairn serve --data "$(DATA)"

build: deps
	cargo build $(CARGO_FLAGS) --bin cairn
	@mkdir -p bin
	@cmp -s "$(CARGO_TARGET_DIR)/release/cairn" bin/cairn || install -m 755 "$(CARGO_TARGET_DIR)/release/cairn" bin/cairn

# Every part prints the seconds that it took.
test: deps clients
	@tools/timed.sh "fmt" cargo fmt --all --check
	@tools/timed.sh "clippy" cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	@tools/timed.sh "programs" cargo build $(CARGO_FLAGS)
	@tools/timed.sh "unit and integration tests" cargo test $(CARGO_FLAGS)
	@tools/timed.sh "bin/cairn" $(MAKE) --no-print-directory build
	@tools/timed.sh "clients" conformance/clients/run.sh quick
	@tools/timed.sh "torture" tools/torture.sh 5 20 10 sample

bench: build
	cargo build $(CARGO_FLAGS) --bin load
	@install -m 755 "$(CARGO_TARGET_DIR)/release/load" bin/load
	SECONDS_EACH=$(SECONDS) AGAINST=$(AGAINST) MINIO=$(MINIO) JSON=$(JSON) $(PYTHON) tools/bench/bench $(BENCH_FLAGS)

space: build
	JSON=$(JSON) $(PYTHON) tools/space/compare

scale: build
	cargo build $(CARGO_FLAGS) --bin scale
	@install -m 755 "$(CARGO_TARGET_DIR)/release/scale" bin/scale
	JSON=$(JSON) $(PYTHON) tools/scale/measure --chunks $(CHUNKS)

torture: build
	tools/torture.sh $(KILLS) 1000 100 all

simulate: deps
	cargo build $(CARGO_FLAGS) --bin simulate
	"$(CARGO_TARGET_DIR)/release/simulate" $(if $(SEED),--seed $(SEED),--first $(FIRST) --seeds $(SEEDS))

# S3_TESTS=DIR names a checkout of ceph/s3-tests. The result is kept, dated, to be committed.
conformance: build
	conformance/tools.sh full
	@mkdir -p conformance/results
	@bash -o pipefail -c 'conformance/clients/run.sh full 2>&1 | tee conformance/results/$(TODAY)-clients.txt'
ifneq ($(S3_TESTS),)
	@bash -o pipefail -c 'conformance/s3-tests/run.sh "$(S3_TESTS)" 2>&1 | tee conformance/results/$(TODAY)-s3-tests.txt'
endif

# A compiler, and what RocksDB and aws-lc need to build. A program that is there is not installed again.
deps: $(CACHE)/.deps-stamp

$(CACHE)/.deps-stamp: Makefile tools/install.sh
	@tools/install.sh $(BUILD_PACKAGES)
	@mkdir -p "$(CACHE)" && touch "$@"

# The programs that the tests use as clients; each script looks for itself what is missing.
clients:
	@conformance/tools.sh quick

clean:
	rm -rf bin
