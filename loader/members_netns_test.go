// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/segment"
)

func tableOf(isolation segment.Isolation, addresses ...string) segment.Table {
	t := segment.Table{}
	for _, text := range addresses {
		t[segment.Key{Address: netip.MustParseAddr(text)}] = isolation
	}
	return t
}

// contents reads a table as another process sees it.
func contents(t *testing.T, path string) map[bpf.MemberKey]bpf.Member {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	all := map[bpf.MemberKey]bpf.Member{}
	var key bpf.MemberKey
	var value bpf.Member
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		all[key] = value
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func wanted(table segment.Table) map[bpf.MemberKey]bpf.Member {
	all := map[bpf.MemberKey]bpf.Member{}
	for key, isolation := range table {
		all[*memberKey(key)] = memberValue(isolation)
	}
	return all
}

// isolate gives the bench a guard of a place, with a table.
func (b *bench) isolate(t *testing.T, place segment.Place, members *Members) {
	t.Helper()
	b.spec.Place, b.spec.Members = place, members
	b.reload(t)
}

func (b *bench) reload(t *testing.T) {
	t.Helper()
	if err := errors.Join(b.guard.Detach(b.place()), b.guard.Close(), Remove(b.spec.Dir)); err != nil {
		t.Fatal(err)
	}
	dir, err := Reserve(filepath.Dir(b.spec.Dir), filepath.Base(b.spec.Dir))
	if err != nil {
		t.Fatal(err)
	}
	b.spec.Dir = dir
	if b.guard, err = b.loader.Load(b.spec); err != nil {
		t.Fatalf("%+v", err)
	}
	if err := b.loader.Attach(b.place(), b.guard, b.spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.guard.Close() })
}

// A pod is kept from whom the table has, from when it has him and until it has not; the
// table is found in the pins by a later agent, and by programs that take the place of the old.
func TestNetnsMembers(t *testing.T) {
	b := newBench(t)
	members, err := b.loader.NewMembers()
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	b.isolate(t, segment.Place{Segment: "lan", Isolation: segment.Of(segment.Isolated)}, members)
	reaches := func(want bool) {
		t.Helper()
		if got := b.pod.Ping(t.Context(), lanAddress, 1) == 1; got != want {
			t.Fatalf("the pod reaches the other: %v, want %v", got, want)
		}
	}
	reaches(true)
	if err := members.Set(tableOf(segment.OfCommunity("red"), lanAddress, "2001:db8::1")); err != nil {
		t.Fatal(err)
	}
	reaches(false)
	if err := members.Set(segment.Table{}); err != nil {
		t.Fatal(err)
	}
	reaches(true)
	want := tableOf(segment.Of(segment.Isolated), lanAddress)
	if err := members.Add(want); err != nil {
		t.Fatal(err)
	}

	opened, err := Open(b.spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	found, err := b.loader.MembersOf(opened)
	if err != nil || found == nil || !found.IsOf(b.guard) || found.Len() != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	defer found.Close()
	if found.IsOf(newBench(t).guard) {
		t.Error("a guard without isolation has the table")
	}
	b.spec.Members = found
	newer, err := otherBuild(t, false).Replace(b.place(), opened, b.spec)
	if err != nil {
		t.Fatal(err)
	}
	defer newer.Close()
	if !found.IsOf(newer) {
		t.Error("the new programs have another table")
	}
	reaches(false)
	if got := contents(t, filepath.Join(b.spec.Dir, pinMembers)); !maps.Equal(got, wanted(want)) {
		t.Errorf("the table has %v, want %v", got, wanted(want))
	}
	b.spec.Place, b.spec.Members = segment.Place{}, nil
	without, err := b.loader.Replace(b.place(), newer, b.spec)
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close()
	if exists(filepath.Join(b.spec.Dir, pinMembers)) {
		t.Error("the table is left where nothing is kept apart")
	}
	reaches(true)
}

// Tables become what is given whatever they were; what an earlier agent has left too.
func TestNetnsMembersAreSet(t *testing.T) {
	b := newBench(t)
	members, err := b.loader.NewMembers()
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	b.isolate(t, segment.Place{Segment: "lan", Isolation: segment.OfCommunity("red")}, members)
	pin := filepath.Join(b.spec.Dir, pinMembers)
	for _, want := range []segment.Table{
		tableOf(segment.OfCommunity("red"), "192.0.2.9", "2001:db8::9"),
		tableOf(segment.OfCommunity("blue"), "192.0.2.9"),
		tableOf(segment.Of(segment.Isolated), "192.0.2.9", "192.0.2.10"),
		{{MAC: [6]byte{2, 0, 0, 0, 0, 1}}: segment.Of(segment.Isolated)},
		{},
	} {
		later, err := b.loader.MembersOf(b.guard)
		if err != nil {
			t.Fatal(err)
		}
		if err := later.Set(want); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, pin); !maps.Equal(got, wanted(want)) {
			t.Errorf("the table has %v, want %v", got, wanted(want))
		}
		if err := later.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What is known by one isolation, and comes up with another, is nobody's to talk to.
func TestNetnsMembersAdded(t *testing.T) {
	b := newBench(t)
	members, err := b.loader.NewMembers()
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	b.isolate(t, segment.Place{Segment: "lan", Isolation: segment.OfCommunity("red")}, members)
	red, blue := segment.OfCommunity("red"), segment.OfCommunity("blue")
	if err := errors.Join(members.Add(tableOf(red, "192.0.2.9", "192.0.2.10")), members.Add(tableOf(red, "192.0.2.9")), members.Add(tableOf(blue, "192.0.2.10"))); err != nil {
		t.Fatal(err)
	}
	want := tableOf(red, "192.0.2.9")
	maps.Copy(want, tableOf(segment.Of(segment.Isolated), "192.0.2.10"))
	if got := contents(t, filepath.Join(b.spec.Dir, pinMembers)); !maps.Equal(got, wanted(want)) {
		t.Errorf("the table has %v, want %v", got, wanted(want))
	}
}

// A table that is full says so, and takes in what there is room for once others are gone.
func TestNetnsMembersFull(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	l.spec.Maps[bpf.MembersMap].MaxEntries = 4
	members, err := l.NewMembers()
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	isolated := segment.Of(segment.Isolated)
	if err := members.Add(tableOf(isolated, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")); err != nil {
		t.Fatal(err)
	}
	if err := members.Add(tableOf(isolated, "192.0.2.5")); !errors.Is(err, ErrMembersFull) {
		t.Errorf("one too many: %v", err)
	}
	want := tableOf(isolated, "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5")
	if err := members.Set(want); err != nil || members.Len() != 4 {
		t.Errorf("%d entries: %v", members.Len(), err)
	}
}
