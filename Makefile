# SPDX-License-Identifier: Apache-2.0
# `make help` lists what there is.

# sudo drops the user's PATH; this is where Go's own archive puts it.
export PATH := $(PATH):/usr/local/go/bin
SHELL := /bin/bash -o pipefail

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BUILD   := build
LDFLAGS := -s -w -X main.version=$(VERSION)
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'

CLANG_VERSION := 19
PLUGINS       := github.com/containernetworking/plugins/plugins
GOLANGCI      := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

.PHONY: build
build: ## Build weir, weir-agent and weirctl into build/
	@mkdir -p $(BUILD)
	$(GOBUILD) -o $(BUILD)/ ./cmd/...

.PHONY: man
man: ## Write weirctl's manual pages into build/man/
	go run ./ctl/man $(BUILD)/man $(VERSION)

.PHONY: demo
demo: deps-demo build ## Play the whole story in namespaces of its own (root)
	tests/demo/demo $(BUILD)

.PHONY: test
test: deps-test check test-unit test-netns test-kernels test-e2e test-demo ## Every test there is (root)

.PHONY: test-unit
test-unit: ## Tests that need no privilege
	go test -race ./...

# tests/node takes longest: when it is first, the others run beside it.
.PHONY: test-netns
test-netns: build ## Tests in network namespaces of this kernel (root)
	go test -race -count=1 -timeout 25m -tags netns -run '^Test(Netns|Nodes|Prometheus|Shells|Browser)' ./tests/node ./...

# An agent whose programs are taken for those of another build: upgrades are tested with it.
.PHONY: build-other
build-other:
	@mkdir -p $(BUILD)/other
	{ cat bpf/weir_bpfel.o; echo; } >$(BUILD)/other/weir_bpfel.o
	echo '{"Replace":{"$(CURDIR)/bpf/weir_bpfel.o":"$(CURDIR)/$(BUILD)/other/weir_bpfel.o"}}' >$(BUILD)/other/overlay.json
	$(GOBUILD) -overlay $(BUILD)/other/overlay.json -o $(BUILD)/other/ ./cmd/weir-agent

KERNELS_WITH := -with $(BUILD)/plugins=/usr/lib/cni \
	$(foreach b,weir weir-agent weirctl other/weir-agent,-with $(BUILD)/$(b)=/weir/src/build/$(b))
# What the agent does is tested in namespaces of this kernel; on others, what hangs on the kernel.
KERNELS_NODE := ^Test(Kernels|Netns(Broadcasts|Masters|Promot|Sockets|Tamper|Upgrade|Walkthrough))

.PHONY: test-kernels
test-kernels: build build-other ## The same, and ipvlan's, on Debian's kernels in QEMU
	$(GOBUILD) -o $(BUILD)/plugins/ $(addprefix $(PLUGINS)/,main/macvlan main/ipvlan main/bridge \
		main/host-device ipam/host-local ipam/static meta/tuning) github.com/containernetworking/cni/cnitool
	go run ./tests/kernels -timeout 30m $(addprefix ./,$(filter-out page/,$(sort $(dir $(wildcard */*_netns_test.go))))) ./tests/kernels/selftest
	go run ./tests/kernels -timeout 30m $(KERNELS_WITH) -run '$(KERNELS_NODE)' ./tests/node
	go run ./tests/kernels -kernels 5.10 -run '^TestNetns(Egress|Ingress|Model|GuardCounts|Spoofs|ProgramsAre|DropsAre|EachDrop)' ./bpf ./loader

.PHONY: test-e2e
test-e2e: ## weir on a real Kubernetes cluster of two nodes (root); builds Kubernetes once
	go test -v -count=1 -p 1 -timeout 30m -tags e2e -run '^TestE2E' ./tests/cluster ./devices ./tests/e2e

.PHONY: test-demo
test-demo: build ## The demo, judged
	tests/demo/demo $(BUILD)

.PHONY: bench
bench: build ## Costs of the programs and of ADD and DEL (root)
	go test -tags netns -run "^$$" -bench . ./bpf
	go test -tags netns -run "^$$" -bench Scrape -benchtime 40x ./agent
	go test -tags netns -run "^$$" -bench . -benchtime 30x ./tests/bench
	go test -tags netns -run "^$$" -bench . -p 1 -benchtime 1x ./tests/bench/bandwidth ./tests/bench/throughput

.PHONY: check
check: check-format check-generated check-dashboards lint ## What needs no running: format, generated files, lint

.PHONY: check-format
check-format:
	clang-format-$(CLANG_VERSION) --dry-run -Werror bpf/*.c bpf/*.h
	test -z "$$(gofmt -l .)"
	shellcheck .ci/run tests/deps tests/demo/demo tests/cluster/boot.sh

.PHONY: lint
lint:
	go run $(GOLANGCI) run --build-tags netns,e2e ./...
	cd dashboards && go run $(GOLANGCI) run ./...

.PHONY: generate
generate: ## Compile the programs and write the Go that goes with them
	BPF2GO_CC=clang-$(CLANG_VERSION) BPF2GO_STRIP=llvm-strip-$(CLANG_VERSION) \
	BPF2GO_CFLAGS='-O2 -g -Wall -Wextra -Werror -mcpu=v3 -I/usr/include/$(shell uname -m)-linux-gnu' \
		go generate ./bpf

.PHONY: check-generated
check-generated: ## Prove that the committed objects are those of the sources
	tests/generated

.PHONY: generate-dashboards
generate-dashboards: ## Write the dashboards, and the rules for the Prometheus operator
	cd dashboards && go run .

.PHONY: check-dashboards
check-dashboards: ## Prove that they are current and sound, and test the rules
	cd dashboards && go vet ./... && go test ./...
	promtool check rules deploy/prometheus/rules.yaml
	promtool test rules deploy/prometheus/rules_test.yaml

.PHONY: deps-demo deps-test
deps-demo deps-test: deps-%:
	tests/deps $*

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BUILD)
