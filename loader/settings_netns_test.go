// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weir-cni/weir/bpf"
)

// changes is how often the settings of a guard are changed under a flood.
const changes = 100

// become has a guard made as its spec says now.
func (b *bench) become(t *testing.T) {
	t.Helper()
	outdated, err := b.loader.IsOutdated(b.spec)
	if err != nil || !outdated {
		t.Fatalf("outdated %t, error %v", outdated, err)
	}
	guard, err := b.loader.Replace(b.place(), b.guard, b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.guard.Close(); err != nil {
		t.Error(err)
	}
	b.guard = guard
	t.Cleanup(func() { _ = guard.Close() })
	if outdated, err := b.loader.IsOutdated(b.spec); err != nil || outdated {
		t.Fatalf("afterwards: outdated %t, error %v", outdated, err)
	}
}

// Settings change under a flood that is half spoofed: no packet passes that should not,
// none is lost, and each is counted.
func TestNodesSettingsChangeLosesNothing(t *testing.T) {
	for _, promoted := range []bool{false, true} {
		t.Run(fmt.Sprintf("promoted %t", promoted), func(t *testing.T) {
			b := newBench(t)
			b.ping(t)
			if promoted {
				b.promote(t)
			}
			b.losesNothing(t, func() {
				for i := range changes {
					b.spec.Checks ^= bpf.CheckVLAN
					b.spec.Storms.Multicast = uint32(1000 + i)
					b.spec.Egress = Rate{BitsPerSecond: 1e15 * uint64(i%2)}
					b.spec.Sources = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/32", i))}
					b.become(t)
				}
			})
			b.checkOneHook(t)
			b.checkPins(t, false)
		})
	}
}

// What the network allows beside the attachment's own addresses follows it; the link-local
// addresses that are in force stay.
func TestNetnsSourcesFollow(t *testing.T) {
	b := newBench(t)
	held := b.spec.Addresses
	held.Prefixes = append(held.Prefixes[:len(held.Prefixes):len(held.Prefixes)], netip.MustParsePrefix("fe80::77/128"))
	if err := b.guard.SetAddresses(held); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.spec.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.64/28"), netip.MustParsePrefix("fe80::/64")}
		b.become(t)
		before := b.count(t, bpf.Egress, "spoofed_ipv4").Packets
		b.pod.Send("net1", spoofed(t, b))
		if got := b.count(t, bpf.Egress, "spoofed_ipv4").Packets; got != before {
			t.Error("a source of the network's was refused")
		}
		b.spec.Sources = nil
		b.become(t)
		b.refuses(t)
		if got := b.held(t); len(got) != 4 {
			t.Errorf("sources %v", got)
		}
		b.ping(t)
	}
}

// held are the sources that are in force.
func (b *bench) held(t *testing.T) []netip.Prefix {
	t.Helper()
	var control bpf.Control
	var facts bpf.Facts
	if err := b.guard.control.Lookup(uint32(0), &control); err != nil {
		t.Fatal(err)
	}
	if err := b.guard.facts.Lookup(control.Slot, &facts); err != nil {
		t.Fatal(err)
	}
	linkLocals := withLinkLocals(nil, &facts)
	return append(linkLocals, make([]netip.Prefix, int(facts.Prefixes4Len)+int(facts.Prefixes6Len)-len(linkLocals))...)
}

// More sources than there is room for leave in force what is.
func TestNetnsSettingsThatCannotBe(t *testing.T) {
	b := newBench(t)
	for i := range bpf.PrefixesMax {
		b.spec.Sources = append(b.spec.Sources, netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i)))
	}
	if err := b.spec.Validate(); err == nil {
		t.Error("they are said to be right")
	}
	if _, err := b.loader.Replace(b.place(), b.guard, b.spec); err == nil {
		t.Error("no error")
	}
	b.refuses(t)
	b.ping(t)
	b.checkOneHook(t)
}

// Addresses change under a flood from one that stays and one that never is the pod's:
// none of the former is lost, none of the latter passes.
func TestNetnsAddressChangeLosesNothing(t *testing.T) {
	b := newBench(t)
	b.promote(t)
	b.losesNothing(t, func() {
		for i := range changes {
			now := Addresses{MAC: b.spec.MAC}
			for n := range i % (bpf.PrefixesMax - 1) {
				now.Prefixes = append(now.Prefixes, netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/32", n)))
			}
			now.Prefixes = append(now.Prefixes, b.spec.Prefixes...)
			if err := b.guard.SetAddresses(now); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// An address that takes the place of another is the pod's from the next packet on, and the
// other is not.
func TestNetnsAddressTakesThePlaceOfAnother(t *testing.T) {
	b := newBench(t)
	b.promote(t)
	other := b.spec.Addresses
	other.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.66/32")}
	first, second := spoofed(t, b), spoofed(t, b)
	copy(first[26:30], netip.MustParseAddr(podAddress).AsSlice())
	for round := range 10 {
		now, frames := other, [][]byte{second, first}
		if round%2 == 1 {
			now, frames = b.spec.Addresses, [][]byte{first, second}
		}
		if err := b.guard.SetAddresses(now); err != nil {
			t.Fatal(err)
		}
		passed, refused := b.count(t, bpf.Egress, "allowed").Packets, b.count(t, bpf.Egress, "spoofed_ipv4").Packets
		b.pod.Send("net1", frames...)
		if got := b.count(t, bpf.Egress, "spoofed_ipv4").Packets; got != refused+1 {
			t.Errorf("round %d: %d refused", round, got-refused)
		}
		if got := b.count(t, bpf.Egress, "allowed").Packets; got < passed+1 {
			t.Errorf("round %d: %d passed", round, got-passed)
		}
	}
}
