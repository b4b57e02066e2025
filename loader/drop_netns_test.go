// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/weir-cni/weir/bpf"
)

// spoof has the guard drop a frame that no interface sent.
func spoof(t *testing.T, g *Guard) {
	t.Helper()
	code, _, err := g.egress.Test(make([]byte, 60))
	if err != nil {
		t.Fatal(err)
	}
	if code != 2 {
		t.Fatalf("a frame from nobody: returned %d", code)
	}
}

func sampled(t *testing.T, g *Guard) uint64 {
	t.Helper()
	var perCPU []bpf.Samples
	if err := g.samples.Lookup(uint32(0), &perCPU); err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, s := range perCPU {
		sum += s.Sampled
	}
	return sum
}

// newLoader is one that may make maps also where they count as locked memory.
func newLoader(t *testing.T) *Loader {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNetnsGuardsOfALoaderShareABuffer(t *testing.T) {
	l := newLoader(t)
	var want []uint64
	var guards []*Guard
	for _, netif := range []string{"net1", "net2"} {
		g, err := l.Load(Spec{Interface: netif, ContainerID: "abc", Checks: allChecks})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = g.Close() })
		spoof(t, g)
		guards, want = append(guards, g), append(want, AttachmentID("abc", netif))
	}
	reader, err := ringbuf.NewReader(guards[0].drops)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() })
	var got []uint64
	for range guards {
		record, err := reader.Read()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, binary.NativeEndian.Uint64(record.RawSample[8:]))
	}
	if !slices.Equal(got, want) || want[0] == want[1] {
		t.Errorf("drops of %x, want %x", got, want)
	}
}

func TestNetnsReplacementCarriesSamplesOn(t *testing.T) {
	b := newBenchWith(t, otherBuild(t, false))
	spoof(t, b.guard)
	before := sampled(t, b.guard)
	b.replace(t)
	spoof(t, b.guard)
	if after := sampled(t, b.guard); before == 0 || after <= before {
		t.Errorf("%d drops sampled before the replacement, %d with it", before, after)
	}
	b.checkDropPins(t)
}

// TestNetnsReplacementOfAGuardWithoutSamples takes over what an older build left.
func TestNetnsReplacementOfAGuardWithoutSamples(t *testing.T) {
	b := newBenchWith(t, otherBuild(t, false))
	if err := errors.Join(os.Remove(filepath.Join(b.spec.Dir, pinDrops)), os.Remove(filepath.Join(b.spec.Dir, pinSamples))); err != nil {
		t.Fatal(err)
	}
	older, err := Open(b.spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if older.drops != nil || older.samples != nil {
		t.Fatal("a guard without the pins has the maps")
	}
	if err := b.guard.Close(); err != nil {
		t.Error(err)
	}
	b.guard = older
	b.replace(t)
	spoof(t, b.guard)
	if sampled(t, b.guard) == 0 {
		t.Error("nothing is sampled after the replacement")
	}
	b.checkDropPins(t)
}

// checkDropPins fails unless the pins are the maps of the guard.
func (b *bench) checkDropPins(t *testing.T) {
	t.Helper()
	pinned, err := Open(b.spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pinned.Close() })
	if sampled(t, pinned) != sampled(t, b.guard) {
		t.Error("the pinned samples are not those of the guard")
	}
	info, err := pinned.drops.Info()
	if err != nil {
		t.Fatal(err)
	}
	own, err := b.guard.drops.Info()
	if err != nil {
		t.Fatal(err)
	}
	pinnedID, _ := info.ID()
	if ownID, _ := own.ID(); pinnedID != ownID {
		t.Errorf("the pinned ring is map %d, the guard's %d", pinnedID, ownID)
	}
}

// The buffer is there while a guard is, and not longer.
func TestNetnsBufferGoesWithItsLastGuard(t *testing.T) {
	l := newLoader(t)
	load := func() *Guard {
		g, err := l.Load(Spec{Interface: "net1", ContainerID: "abc", Checks: allChecks})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = g.Close() })
		return g
	}
	first, second := load(), load()
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if l.drops.users != 1 || l.drops.made.FD() < 0 {
		t.Errorf("%d users, with one guard left", l.drops.users)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if l.drops.users != 0 || l.drops.made.FD() >= 0 {
		t.Errorf("%d users, with no guard left", l.drops.users)
	}
	spoof(t, load())
}
