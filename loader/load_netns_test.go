// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"net"
	"net/netip"
	"testing"
)

func BenchmarkLoad(b *testing.B) {
	l, err := New()
	if err != nil {
		b.Fatal(err)
	}
	spec := Spec{
		Interface: "net1",
		Checks:    allChecks,
		Addresses: Addresses{
			MAC:      net.HardwareAddr{2, 0, 0, 0, 0, 1},
			Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
		},
	}
	for b.Loop() {
		g, err := l.load(spec)
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
