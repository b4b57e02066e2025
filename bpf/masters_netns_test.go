// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import "testing"

// besideOther is a guard on a master on which the sender of arriving is a neighbour.
func besideOther(tb testing.TB, flags uint32) *loaded {
	tb.Helper()
	const master = 1 << 20 // no interface has this number
	l := load(tb, all)
	if err := l.Maps[ControlMap].Put(uint32(0), &Control{Master: master}); err != nil {
		tb.Fatal(err)
	}
	key := LocalKey{Kind: MemberMAC, Master: master}
	copy(key.Address[:], otherMAC)
	if err := l.Maps[LocalsMap].Put(&key, &Local{Flags: flags}); err != nil {
		tb.Fatal(err)
	}
	return l
}

// A test's packet has no stamp, as one that was sent past the guard of its sender.
func TestNetnsIngressRefusesWhatCameRound(t *testing.T) {
	tests := []struct {
		name  string
		flags uint32
		want  string
	}{
		{"without leave", 0, "bypassed"},
		{"with leave", LocalRound, "allowed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := besideOther(t, test.flags).receive(t, arriving(t, podMAC)); got != test.want {
				t.Errorf("verdict %s, want %s", got, test.want)
			}
		})
	}
}
