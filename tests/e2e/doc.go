// SPDX-License-Identifier: Apache-2.0

// Package e2e tests weir in a real Kubernetes cluster on this machine, which
// package cluster runs. The tests are behind the build tag e2e, need root and
// share one cluster:
//
//	go test -tags e2e -count=1 -timeout 30m -v -run '^TestE2E' ./tests/e2e
package e2e
