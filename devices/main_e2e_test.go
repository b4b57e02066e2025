// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package devices_test

import (
	"testing"

	"github.com/weir-cni/weir/tests/cluster"
)

var suite = cluster.Suite{Options: cluster.Options{Nodes: 1}}

func TestMain(m *testing.M) { suite.Main(m) }
