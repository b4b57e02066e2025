// SPDX-License-Identifier: Apache-2.0

package attachment

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestValidateContainerID(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, id string
		ok       bool
	}{
		{"a runtime's", strings.Repeat("0123456789abcdef", 4), true},
		{"every character allowed", "a_b.c-D9", true},
		{"none", "", false},
		{"begins with a dot", ".a", false},
		{"a path", "../../etc", false},
		{"a newline at the end", "a\n", false},
		{"endless", strings.Repeat("a", 201), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := ValidateContainerID(test.id)
			if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v, want ok %v", err, test.ok)
			}
		})
	}
}

func TestPinNames(t *testing.T) {
	t.Parallel()
	tests := []struct{ id, ifname, short, long string }{
		{"0123456789abcdef", "net1", "0123456789ab-net1", "0123456789abcdef-net1"},
		{"abc", "net1", "abc-net1", "abc-net1"},
		{"a.b", "net1.5", "a%2Eb-net1%2E5", "a%2Eb-net1%2E5"},
		{"a-b", "net1", "a-b-net1", "a%2Db-net1"},
		{"a", "b-net1", "a-b-net1", "a-b%2Dnet1"},
		{"a", "n%1", "a-n%251", "a-n%251"},
		{strings.Repeat(".", 100), "net1", strings.Repeat("%2E", 12) + "-net1", "sha256=d4d79b146ba203be0bf2fe0a86f30b46-net1"},
	}
	for _, test := range tests {
		id := ID{test.id, test.ifname}
		if got := id.PinName(); got != test.short {
			t.Errorf("%s: short %s, want %s", id, got, test.short)
		}
		if got := id.LongPinName(); got != test.long {
			t.Errorf("%s: long %s, want %s", id, got, test.long)
		}
	}
}

// A guard's directory under its LongPinName is emptied before it is taken, so no
// other attachment may ever have that name, long or short.
func TestLongPinNamesAreTheirOwn(t *testing.T) {
	t.Parallel()
	// Few characters, so that what could be confused is drawn often.
	container := rapid.StringMatching(`[ab][ab.\-]{0,14}`)
	ifname := rapid.StringMatching(`[ab%\-][ab.%\-]{0,5}`)
	draw := rapid.Custom(func(t *rapid.T) ID {
		return ID{container.Draw(t, "container"), ifname.Draw(t, "interface")}
	})
	rapid.Check(t, func(t *rapid.T) {
		one, other := draw.Draw(t, "one"), draw.Draw(t, "other")
		if one == other {
			return
		}
		if name := one.LongPinName(); name == other.LongPinName() || name == other.PinName() {
			t.Errorf("%s and %s share %s", one, other, name)
		}
	})
}

func TestHyphensDoNotMakeNamesTheSame(t *testing.T) {
	t.Parallel()
	names := map[string]ID{}
	for _, text := range []string{"a-b-c", "a-b-c-d", "ab-c", "a--b", "a---b"} {
		for i := 1; i < len(text)-1; i++ {
			if text[i] != '-' {
				continue
			}
			id := ID{text[:i], text[i+1:]}
			if other, taken := names[id.LongPinName()]; taken {
				t.Errorf("%s and %s share %s", id, other, id.LongPinName())
			}
			names[id.LongPinName()] = id
		}
	}
}

func TestStrings(t *testing.T) {
	t.Parallel()
	tests := []struct{ got, want string }{
		{ID{"abc", "net1"}.String(), "abc/net1"},
		{Pod{Namespace: "default", Name: "web"}.String(), "default/web"},
		{Pod{}.String(), ""},
	}
	for _, test := range tests {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

func TestAttachmentIsFlatJSON(t *testing.T) {
	t.Parallel()
	want := Attachment{
		ID:        ID{"abc", "net1"},
		Pod:       Pod{Namespace: "default", Name: "web", UID: "1"},
		Network:   "default/lan",
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
		Created:   time.Unix(1, 0).UTC(),
	}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"containerID":"abc","interface":"net1","pod":{"namespace":"default","name":"web","uid":"1"},` +
		`"network":"default/lan","addresses":["192.0.2.1/24"],"created":"1970-01-01T00:00:01Z"}`
	if diff := cmp.Diff(text, string(data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var got Attachment
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

func FuzzPinName(f *testing.F) {
	f.Add("0123456789abcdef", "net1")
	f.Add(strings.Repeat(".", 200), "a.b")
	f.Fuzz(func(t *testing.T, container, ifname string) {
		id := ID{container, ifname}
		if ValidateContainerID(container) != nil || len(ifname) > 15 || strings.Contains(ifname, "/") {
			return
		}
		for _, name := range []string{id.PinName(), id.LongPinName()} {
			if len(name) > pinNameMax || strings.ContainsAny(name, "./") {
				t.Errorf("%q is no name for a pin", name)
			}
		}
	})
}
