// SPDX-License-Identifier: Apache-2.0

//go:build netns

package drops

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/weir-cni/weir/bpf"
)

// station is programs with a ring, attached to nothing.
type station struct{ *ebpf.Collection }

func newStation(t *testing.T, number uint64, ring *ebpf.Map) *station {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := bpf.CollectionSpec()
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]any{"weir_checks": uint32(bpf.CheckMAC), "weir_attachment": number} {
		if err := spec.Variables[name].Set(value); err != nil {
			t.Fatal(err)
		}
	}
	var options ebpf.CollectionOptions
	if ring != nil {
		options.MapReplacements = map[string]*ebpf.Map{bpf.DropsMap: ring}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		t.Fatalf("loading the programs (root is needed): %+v", err)
	}
	t.Cleanup(collection.Close)
	return &station{collection}
}

// drop has a frame dropped that can be told from others by its length.
func (s *station) drop(t *testing.T, length int) {
	t.Helper()
	frame := make([]byte, length)
	frame[6] = 2 // the MAC of nobody
	code, _, err := s.Programs[bpf.EgressProgram].Test(frame)
	if err != nil || code != 2 {
		t.Fatalf("returned %d, %v", code, err)
	}
}

// ring is a handle of its own.
func (s *station) ring(t *testing.T) *ebpf.Map {
	t.Helper()
	m, err := s.Maps[bpf.DropsMap].Clone()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// listener takes what rings bring.
type listener struct {
	rings *Rings
	taken chan bpf.Drop
}

func listen(t *testing.T) *listener {
	t.Helper()
	l := &listener{taken: make(chan bpf.Drop, 100)}
	l.rings = NewRings(func(d *bpf.Drop, at time.Time) {
		if age := time.Since(at); age < 0 || age > time.Minute {
			t.Errorf("dropped %s ago", age)
		}
		l.taken <- *d
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = l.rings.Close() })
	return l
}

func (l *listener) hold(t *testing.T, number uint64, m *ebpf.Map) {
	t.Helper()
	if err := l.rings.Hold(number, m); err != nil {
		t.Fatal(err)
	}
}

func (l *listener) want(t *testing.T, number uint64, length uint32) {
	t.Helper()
	select {
	case d := <-l.taken:
		if d.Attachment != number || d.Length != length {
			t.Errorf("%d dropped %d bytes, want %d and %d", d.Attachment, d.Length, number, length)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("nothing came of %d", number)
	}
}

func (l *listener) wantNothing(t *testing.T) {
	t.Helper()
	select {
	case d := <-l.taken:
		t.Errorf("%d dropped %d bytes", d.Attachment, d.Length)
	case <-time.After(200 * time.Millisecond):
	}
}

func (l *listener) open() int {
	l.rings.mu.Lock()
	defer l.rings.mu.Unlock()
	return len(l.rings.rings)
}

func TestNetnsEachRingIsReadOnce(t *testing.T) {
	first := newStation(t, 1, nil)
	second := newStation(t, 2, first.Maps[bpf.DropsMap])
	third := newStation(t, 3, nil)
	l := listen(t)
	l.hold(t, 1, first.ring(t))
	l.hold(t, 2, second.ring(t))
	l.hold(t, 3, third.ring(t))
	l.hold(t, 3, third.ring(t)) // the same again
	l.hold(t, 4, nil)
	if n := l.open(); n != 2 {
		t.Errorf("%d rings are read, want 2", n)
	}
	for n, s := range []*station{first, second, third} {
		s.drop(t, 60+n)
		l.want(t, uint64(n+1), uint32(60+n))
	}
	l.wantNothing(t)
}

// What is in a ring when the last attachment lets go of it is still read.
func TestNetnsRingsAreLetGo(t *testing.T) {
	s := newStation(t, 1, nil)
	l := listen(t)
	l.hold(t, 1, s.ring(t))
	l.hold(t, 2, s.ring(t))
	l.rings.Release(1)
	l.rings.Release(1)
	s.drop(t, 60)
	l.want(t, 1, 60)
	for range 5 {
		s.drop(t, 61)
	}
	l.rings.Release(2)
	for range 5 {
		l.want(t, 1, 61)
	}
	if n := l.open(); n != 0 {
		t.Errorf("%d rings are read", n)
	}
	s.drop(t, 62)
	l.wantNothing(t)
}

// A guard that was replaced reports to another ring.
func TestNetnsAnAttachmentTakesAnotherRing(t *testing.T) {
	before, after := newStation(t, 1, nil), newStation(t, 1, nil)
	l := listen(t)
	l.hold(t, 1, before.ring(t))
	before.drop(t, 60)
	l.hold(t, 1, after.ring(t))
	after.drop(t, 61)
	l.want(t, 1, 60)
	l.want(t, 1, 61)
	if n := l.open(); n != 1 {
		t.Errorf("%d rings are read", n)
	}
}

// What an agent did not come to read the next one reads.
func TestNetnsTheNextReaderGoesOn(t *testing.T) {
	s := newStation(t, 1, nil)
	l := listen(t)
	l.hold(t, 1, s.ring(t))
	s.drop(t, 60)
	l.want(t, 1, 60)
	if err := l.rings.Close(); err != nil {
		t.Fatal(err)
	}
	s.drop(t, 61)
	next := listen(t)
	next.hold(t, 1, s.ring(t))
	next.want(t, 1, 61)
	next.wantNothing(t)
}

func TestNetnsWhatIsNoRingIsRefused(t *testing.T) {
	l := listen(t)
	array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.rings.Hold(1, array); err == nil {
		t.Error("an array is read as a ring")
	}
	if array.FD() >= 0 {
		t.Error("it is not closed")
	}
	if err := l.rings.pass([]byte("not a drop")); !errors.Is(err, ErrRecord) {
		t.Errorf("what is no record: %v", err)
	}
}
