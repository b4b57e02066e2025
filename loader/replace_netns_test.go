// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/weir-cni/weir/bpf"
)

// otherBuild is a loader whose programs are those of another build, which may have one
// verdict more that nobody else knows.
func otherBuild(t *testing.T, withMore bool) *Loader {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	l.build = "another"
	if withMore {
		addMember(t, l.spec.Maps[bpf.CountersMap])
	}
	return l
}

// addMember makes room behind the last counters of egress, where the programs that are
// compiled already do not see it.
func addMember(t *testing.T, counters *ebpf.MapSpec) {
	t.Helper()
	outer, ok := btf.Copy(counters.Value).(*btf.Struct)
	if !ok {
		t.Fatalf("the counters are %v", counters.Value)
	}
	last := &outer.Members[len(outer.Members)-1]
	inner, ok := btf.Copy(last.Type).(*btf.Struct)
	if !ok {
		t.Fatalf("the counters of egress are %v", last.Type)
	}
	more := inner.Members[len(inner.Members)-1]
	more.Name, more.Offset = "from_the_future", btf.Bits(inner.Size*8)
	size, err := btf.Sizeof(more.Type)
	if err != nil {
		t.Fatal(err)
	}
	inner.Members = append(inner.Members, more)
	inner.Size += uint32(size)
	last.Type = inner
	outer.Size += uint32(size)
	counters.Value, counters.ValueSize = outer, outer.Size
}

// replace has a newer agent take the guard over.
func (b *bench) replace(t *testing.T) {
	t.Helper()
	newer, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b.loader = newer
	for {
		outdated, err := newer.IsOutdated(b.spec)
		if err != nil {
			t.Fatal(err)
		}
		if !outdated {
			return
		}
		guard, err := newer.Replace(b.place(), b.guard, b.spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.guard.Close(); err != nil {
			t.Error(err)
		}
		b.guard = guard
		t.Cleanup(func() { _ = guard.Close() })
	}
}

func TestNetnsReplacementLosesNothing(t *testing.T) {
	for _, withMore := range []bool{false, true} {
		for _, promoted := range []bool{false, true} {
			t.Run(fmt.Sprintf("another layout %t, promoted %t", withMore, promoted), func(t *testing.T) {
				b := newBenchWith(t, otherBuild(t, withMore))
				b.ping(t)
				if promoted {
					if err := b.loader.Promote(b.place(), b.guard); err != nil {
						t.Fatal(err)
					}
				}
				b.losesNothing(t, func() { b.replace(t) })
				if err := b.loader.Promote(b.place(), b.guard); err != nil {
					t.Fatal(err)
				}
				b.checkOneHook(t)
				b.checkPins(t, withMore)
				b.losesNothing(t, func() {})
			})
		}
	}
}

// checkPins makes sure that a directory has the pins of one guard, which another process
// can open, and that the old maps are gone.
func (b *bench) checkPins(t *testing.T, carried bool) {
	t.Helper()
	if exists(filepath.Join(b.spec.Dir, nextDir)) {
		t.Error("the pins that were to take the place of others are still there")
	}
	if exists(filepath.Join(b.spec.Dir, pinCarried)) != carried {
		t.Errorf("what was counted before is kept beside: %t", !carried)
	}
	metadata, err := ReadMetadata(b.spec.Dir)
	if err != nil || metadata.Build != bpf.Build() || metadata.Pod != b.spec.Pod {
		t.Errorf("metadata %+v, error %v", metadata, err)
	}
	open, err := b.guard.Counters()
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := ReadCounters(b.spec.Dir)
	if err != nil || pinned.Of(bpf.Egress, bpf.Allowed).Packets < open.Of(bpf.Egress, bpf.Allowed).Packets {
		t.Errorf("the pins have %v, the guard %v; error %v", pinned, open, err)
	}
	guard, err := Open(b.spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := guard.Close(); err != nil {
		t.Error(err)
	}
}

// An agent that dies anywhere in a replacement leaves a guard in force, and the next one
// finishes what it has begun.
func TestNetnsReplacementIsFinishedByTheNextAgent(t *testing.T) { finishReplacements(t, false) }

// The same from maps of another layout.
func TestNodesReplacementOfAnotherLayoutIsFinished(t *testing.T) { finishReplacements(t, true) }

// finishReplacements has an agent die after each step of a replacement.
func finishReplacements(t *testing.T, withMore bool) {
	t.Helper()
	steps := len((&replacement{}).steps())
	for done := range steps + 1 {
		t.Run(fmt.Sprintf("after step %d of %d", done, steps), func(t *testing.T) {
			b := newBenchWith(t, otherBuild(t, withMore))
			if err := b.loader.Promote(b.place(), b.guard); err != nil {
				t.Fatal(err)
			}
			b.pingOnce(t)
			before := b.count(t, bpf.Ingress, "allowed").Packets
			b.dieAfter(t, done)
			b.pingOnce(t)
			b.replace(t)
			b.pingOnce(t)
			if after := b.count(t, bpf.Ingress, "allowed").Packets; after < before+2 {
				t.Errorf("%d packets were counted before, %d after", before, after)
			}
			b.checkOneHook(t)
			b.checkPins(t, withMore)
		})
	}
}

func (b *bench) pingOnce(t *testing.T) {
	t.Helper()
	if got := b.outside.Ping(t.Context(), podAddress, 1); got != 1 {
		t.Fatal("a ping was not answered")
	}
}

// dieAfter has an agent of this build do so many steps of a replacement and no more.
func (b *bench) dieAfter(t *testing.T, done int) {
	t.Helper()
	newer, err := New()
	if err != nil {
		t.Fatal(err)
	}
	r := &replacement{loader: newer, place: b.place(), old: b.guard, dir: b.spec.Dir, next: filepath.Join(b.spec.Dir, nextDir)}
	if err := r.prepare(b.spec); err != nil {
		t.Fatal(err)
	}
	for i, step := range r.steps()[:done] {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
	if err := b.guard.Close(); err != nil {
		t.Error(err)
	}
	if b.guard, err = Open(b.spec.Dir); err != nil {
		t.Fatal(err)
	}
}

// Pins that were not whole are nobody's.
func TestNetnsReplacementThatWasHardlyBegun(t *testing.T) {
	b := newBenchWith(t, otherBuild(t, true))
	next := filepath.Join(b.spec.Dir, nextDir)
	if err := os.Mkdir(next, 0o700); err != nil {
		t.Fatal(err)
	}
	counters, err := b.guard.counters.Clone()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(counters.Pin(filepath.Join(next, pinCounters)), counters.Close()); err != nil {
		t.Fatal(err)
	}
	b.replace(t)
	b.pingOnce(t)
	b.checkPins(t, true)
}

// An older agent takes over from a newer one as a newer one from an older.
func TestNetnsReplacementThereAndBack(t *testing.T) {
	b := newBench(t)
	if err := b.loader.Promote(b.place(), b.guard); err != nil {
		t.Fatal(err)
	}
	b.pingOnce(t)
	before := b.count(t, bpf.Ingress, "allowed").Packets
	guard, err := otherBuild(t, true).Replace(b.place(), b.guard, b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.guard.Close(); err != nil {
		t.Error(err)
	}
	b.guard = guard
	b.pingOnce(t)
	b.replace(t)
	b.pingOnce(t)
	if after := b.count(t, bpf.Ingress, "allowed").Packets; after < before+2 {
		t.Errorf("%d packets were counted before, %d after", before, after)
	}
	b.checkPins(t, true)
}

// What the pod took away is back.
func TestNetnsReplacementPutsFiltersBack(t *testing.T) {
	b := newBenchWith(t, otherBuild(t, false))
	if err := b.guard.clear(b.place(), b.pod.Link("net1").Attrs().Index); err != nil {
		t.Fatal(err)
	}
	b.replace(t)
	if err := b.guard.Check(b.place()); err != nil {
		t.Error(err)
	}
}

func TestNetnsReplacementOnAnInterfaceThatIsGone(t *testing.T) {
	b := newBenchWith(t, otherBuild(t, false))
	place := b.place()
	place.Interface = "nowhere"
	newer, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newer.Replace(place, b.guard, b.spec); err == nil {
		t.Error("no error")
	}
	b.pingOnce(t)
	b.replace(t)
	b.checkPins(t, false)
}
