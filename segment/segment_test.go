// SPDX-License-Identifier: Apache-2.0

package segment

import (
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestIsolationOfJSON(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		want Isolation
		ok   bool
	}{
		{`"none"`, Of(None), true},
		{`"isolated"`, Of(Isolated), true},
		{`"promiscuous"`, Of(Promiscuous), true},
		{`{"community":"red"}`, OfCommunity("red"), true},
		{`{"community":"Team_7.a-b"}`, OfCommunity("Team_7.a-b"), true},
		{`"Isolated"`, Isolation{}, false},
		{`""`, Isolation{}, false},
		{`"community"`, Isolation{}, false},
		{`"community:red"`, Isolation{}, false},
		{`{}`, Isolation{}, false},
		{`{"community":7}`, Isolation{}, false},
		{`{"community":"-red"}`, Isolation{}, false},
		{`{"community":"red\n"}`, Isolation{}, false},
		{`{"community":"` + strings.Repeat("r", 64) + `"}`, Isolation{}, false},
		{`["isolated"]`, Isolation{}, false},
		{`7`, Isolation{}, false},
	}
	for _, test := range tests {
		var got Isolation
		err := json.Unmarshal([]byte(test.text), &got)
		if (err == nil) != test.ok || got != test.want || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, %v, want %v, %v", test.text, got, err, test.want, test.ok)
		}
	}
}

func TestZeroIsolationIsNone(t *testing.T) {
	t.Parallel()
	var zero Isolation
	if zero.Role() != None || zero.Restricted() || zero.String() != "none" || zero.CommunityNumber() != 0 {
		t.Errorf("%v", zero)
	}
	if got := OfCommunity("red").String(); got != "community:red" {
		t.Error(got)
	}
}

// The numbers are of every build the same: programs of two of them share a table.
func TestCommunityNumberIsForEver(t *testing.T) {
	t.Parallel()
	if got, want := OfCommunity("red").CommunityNumber(), uint64(0xb1f51a511f1da0cd); got != want {
		t.Errorf("%#x, want %#x", got, want)
	}
}

func isolations() *rapid.Generator[Isolation] {
	return rapid.OneOf(
		rapid.Just(Isolation{}), rapid.Just(Of(None)), rapid.Just(Of(Promiscuous)), rapid.Just(Of(Isolated)),
		rapid.Map(rapid.SampledFrom([]string{"red", "blue", "green"}), OfCommunity),
	)
}

// RFC 5517: a promiscuous one talks to all, a community within itself, an isolated one to
// the promiscuous alone; and it is mutual.
func TestMatrix(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := isolations().Draw(t, "a"), isolations().Draw(t, "b")
		free := func(i Isolation) bool { return i.Role() == None || i.Role() == Promiscuous }
		want := free(a) || free(b) || a.Role() == Community && b.Role() == Community && a.String() == b.String()
		if a.MayTalkTo(b) != want || b.MayTalkTo(a) != want {
			t.Fatalf("%v and %v: %v and %v, want %v", a, b, a.MayTalkTo(b), b.MayTalkTo(a), want)
		}
		if a.Role() == Community && b.Role() == Community && (a.CommunityNumber() == b.CommunityNumber()) != want {
			t.Fatalf("%v and %v have the numbers %x and %x", a, b, a.CommunityNumber(), b.CommunityNumber())
		}
	})
}

func member(mac string, addresses ...string) Member {
	m := Member{}
	m.MAC, _ = net.ParseMAC(mac)
	for _, text := range addresses {
		m.Addresses = append(m.Addresses, netip.MustParseAddr(text))
	}
	return m
}

func address(text string) Key { return Key{Address: netip.MustParseAddr(text)} }

func TestTableKnowsAMemberByAllItsNames(t *testing.T) {
	t.Parallel()
	isolated := Of(Isolated)
	tests := []struct {
		name  string
		place Place
		m     Member
		want  Table
	}{
		{"MAC, addresses, and what the kernel makes of the MAC", Place{Isolation: isolated}, member("02:42:ac:11:00:02", "192.0.2.2", "2001:db8::2"),
			Table{{MAC: [6]byte{2, 0x42, 0xac, 0x11, 0, 2}}: isolated, address("fe80::42:acff:fe11:2"): isolated, address("192.0.2.2"): isolated, address("2001:db8::2"): isolated}},
		{"a shared MAC is nobody's", Place{Isolation: isolated, SharedMAC: true}, member("02:42:ac:11:00:02", "192.0.2.2"), Table{address("192.0.2.2"): isolated}},
		{"no MAC", Place{Isolation: isolated}, member("", "192.0.2.2"), Table{address("192.0.2.2"): isolated}},
		{"a MAC of InfiniBand", Place{Isolation: isolated}, member("80:00:00:48:fe:80:00:00:00:00:00:00:f4:52:14:03:00:17:6c:41"), Table{}},
		{"IPv4 in IPv6's form, and a zone", Place{Isolation: isolated}, member("", "::ffff:192.0.2.2", "fe80::1%eth0"), Table{address("192.0.2.2"): isolated, address("fe80::1"): isolated}},
		{"promiscuous", Place{Isolation: Of(Promiscuous)}, member("02:42:ac:11:00:02", "192.0.2.2"), Table{}},
		{"none", Place{}, member("02:42:ac:11:00:02", "192.0.2.2"), Table{}},
	}
	for _, test := range tests {
		got := Table{}
		got.Add(test.place, test.m)
		if !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// What two are known by is for none of them, whichever came first.
func TestTableIsStrictWithWhatIsSharedByTwo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Map(isolations(), func(i Isolation) Place { return Place{Isolation: i} }), 1, 4).Draw(t, "places")
		got := Table{}
		for _, place := range all {
			got.Add(place, member("", "192.0.2.2"))
		}
		for _, place := range all {
			if !place.Isolation.Restricted() {
				continue
			}
			for _, other := range []Isolation{Of(Isolated), OfCommunity("red"), OfCommunity("blue")} {
				if got[address("192.0.2.2")].MayTalkTo(other) && !place.Isolation.MayTalkTo(other) {
					t.Fatalf("%v make %v, with which %v may talk", all, got, other)
				}
			}
		}
	})
}

func TestDiffLeadsFromOneTableToAnother(t *testing.T) {
	t.Parallel()
	tables := rapid.MapOfN(rapid.Map(rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "fe80::1"}), address),
		rapid.SampledFrom([]Isolation{Of(Isolated), OfCommunity("red")}), 0, 4)
	rapid.Check(t, func(t *rapid.T) {
		have, want := Table(tables.Draw(t, "have")), Table(tables.Draw(t, "want"))
		put, gone := have.Diff(want)
		got := maps.Clone(have)
		for _, key := range gone {
			delete(got, key)
		}
		maps.Copy(got, put)
		if diff := cmp.Diff(len(want), len(got)); diff != "" || !maps.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
		if again, left := got.Diff(want); len(again)+len(left) > 0 {
			t.Fatalf("%v and %v are left", again, left)
		}
	})
}
