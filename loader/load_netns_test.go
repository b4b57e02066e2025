// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import "testing"

func BenchmarkLoad(b *testing.B) {
	l, err := New()
	if err != nil {
		b.Fatal(err)
	}
	spec := Spec{Interface: "net1", Checks: allChecks}
	for b.Loop() {
		g, err := l.Load(spec)
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
