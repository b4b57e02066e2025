// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"testing"

	"github.com/weir-cni/weir/tests/cluster"
)

const weirImage = "ghcr.io/weir-cni/weir:latest"

var suite = cluster.Suite{Options: cluster.Options{WeirImage: weirImage}}

func TestMain(m *testing.M) { suite.Main(m) }
