# Fogwright's errands. Everything here is a thin wrapper: `make help` lists them.

BOARD   ?= pc-amd64
OUT     ?= out
VARIANT ?= release
FOGWRIGHT = go run ./tools/fogwright
# Programs in modules of their own, so that their dependencies stay out of the box's.
NESTED  = initramfs/workload/edgecache
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help run image boards check test e2e fuzz bench setup-run setup-test clean

help: ## list the errands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo "  Variables: BOARD=$(BOARD) OUT=$(OUT) VARIANT=$(VARIANT); boards: make boards"

run: setup-run ## build a box, boot it in a virtual home, let a BitTorrent client fetch from it
	$(FOGWRIGHT) run -board $(BOARD) -variant $(VARIANT) -peer aria2c

image: ## build BOARD's images into OUT
	$(FOGWRIGHT) build -board $(BOARD) -variant $(VARIANT) -out $(OUT)

boards: ## list the boards and what is proved about each
	@$(FOGWRIGHT) boards

check: setup-test ## format, vet and the fast tests: under a minute when warm
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	  [ -z "$$unformatted" ] || { echo "not gofmt-ed: $$unformatted"; exit 1; }
	go vet -tags e2e ./...
	cd $(NESTED) && go vet ./...
	go test ./...
	cd $(NESTED) && go test ./...

test: check fuzz e2e ## everything: the fast tests, brief fuzzing, and real boots of every board

e2e: setup-test ## boot real images and judge them (20 minutes)
	go test -tags e2e -count=1 -timeout 60m -v ./ci/e2e/

fuzz: ## every fuzz target for a moment (FUZZTIME=10s for longer)
	ci/fuzz.sh $(NESTED)

bench: setup-test ## what builds, boots and memory cost, as a table and as JSON
	go run ./ci/bench -out $(OUT)

setup-run:
	@ci/setup.sh run

setup-test:
	@ci/setup.sh test

clean: ## remove OUT; the download cache stays
	rm -rf $(OUT)
