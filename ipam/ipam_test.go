// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	fakestore "github.com/containernetworking/plugins/plugins/ipam/host-local/backend/testing"

	"github.com/weir-cni/weir/runner"
)

// crashDir makes the test binary reserve addresses in this directory until it is killed.
const crashDir = "WEIR_IPAM_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		reserveForever(dir)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	code := m.Run()
	if dir := referenceDir.Load(); dir != nil {
		if err := os.RemoveAll(*dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

func mustParse(tb testing.TB, config, args string) Plugin {
	tb.Helper()
	p, err := Parse([]byte(config), nil, args, &runner.Runner{})
	if err != nil {
		tb.Fatalf("parsing %s with %q: %v", config, args, err)
	}
	if p == nil {
		tb.Fatalf("parsing %s: no plugin", config)
	}
	return p
}

func mustAdd(tb testing.TB, p Plugin, req Request) *current.Result {
	tb.Helper()
	result, err := p.Add(tb.Context(), req)
	if err != nil {
		tb.Fatalf("adding %s of %s: %v", req.IfName, req.ContainerID, err)
	}
	return result
}

func mustDel(tb testing.TB, p Plugin, req Request) {
	tb.Helper()
	if err := p.Del(tb.Context(), req); err != nil {
		tb.Fatalf("deleting %s of %s: %v", req.IfName, req.ContainerID, err)
	}
}

// wantField fails unless err is a FieldError of that field around that sentinel.
func wantField(tb testing.TB, err error, field string, sentinel error) {
	tb.Helper()
	fieldErr, ok := errors.AsType[*FieldError](err)
	if !ok {
		tb.Fatalf("want an error in field %s, got %v", field, err)
	}
	if fieldErr.Field != field {
		tb.Errorf("want an error in field %s, got %v", field, err)
	}
	if !errors.Is(err, sentinel) {
		tb.Errorf("want the error %q, got %q", sentinel, err)
	}
}

// addresses returns the addresses of a result in CIDR notation, each with "via" and its gateway.
func addresses(result *current.Result) []string {
	var got []string
	for _, ip := range result.IPs {
		s := ip.Address.String()
		if ip.Gateway != nil {
			s += " via " + ip.Gateway.String()
		}
		got = append(got, s)
	}
	return got
}

func TestParseWithoutIPAM(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]string{
		"no section":    `{"name":"n","cniVersion":"1.1.0","type":"macvlan"}`,
		"null section":  `{"name":"n","ipam":null}`,
		"empty section": `{"name":"n","ipam":{}}`,
		"empty type":    `{"name":"n","ipam":{"type":"","addresses":"unread"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse([]byte(config), nil, "", &runner.Runner{})
			if p != nil || err != nil {
				t.Errorf("want nothing, got %v, %v", p, err)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		config   string
		field    string
		sentinel error
	}{
		"nothing":             {``, "", ErrInvalid},
		"not JSON":            {`{"ipam":`, "", ErrInvalid},
		"a list":              {`[]`, "", ErrInvalid},
		"section is a string": {`{"ipam":"static"}`, "ipam", ErrInvalid},
		"type is a number":    {`{"ipam":{"type":4}}`, "ipam.type", ErrInvalid},
		"unknown type":        {`{"ipam":{"type":"whereabouts"}}`, "ipam.type", ErrPluginNotFound},
		"type with a slash":   {`{"ipam":{"type":"../static"}}`, "ipam.type", ErrPluginNotFound},
		"type is a dot":       {`{"ipam":{"type":"."}}`, "ipam.type", ErrPluginNotFound},
		"type with a NUL":     {`{"ipam":{"type":"a\u0000b"}}`, "ipam.type", ErrPluginNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse([]byte(tc.config), []string{"", t.TempDir()}, "", &runner.Runner{})
			if p != nil {
				t.Errorf("got a plugin: %v", p)
			}
			wantField(t, err, tc.field, tc.sentinel)
		})
	}
}

func TestFieldErrorNamesFieldAndValue(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]*FieldError{
		`ipam.addresses[0].address "10.0.0.1": has no prefix length`: {
			Field: "ipam.addresses[0].address", Value: "10.0.0.1", Err: ErrNoPrefix,
		},
		`ipam.addresses: no address is given`: {Field: "ipam.addresses", Err: ErrNoAddress},
		`network configuration: is not valid`: {Err: ErrInvalid},
	} {
		if got := err.Error(); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}

// FuzzParse holds Parse to its promise: whatever it accepts can be worked with.
func FuzzParse(f *testing.F) {
	for _, tc := range staticGood {
		f.Add([]byte(tc.config), tc.args)
	}
	for _, tc := range staticBad {
		f.Add([]byte(tc.config), tc.args)
	}
	for _, tc := range hostLocalBad {
		f.Add(fmt.Appendf(nil, tc.config, "/nonexistent"), tc.args)
	}
	f.Add([]byte(`{"name":"n","ipam":{"type":"dhcp"}}`), "IgnoreUnknown=1;K8S_POD_NAME=p")
	f.Fuzz(func(t *testing.T, config []byte, args string) {
		p, err := Parse(config, nil, args, &runner.Runner{})
		if err != nil {
			if _, ok := errors.AsType[*FieldError](err); !ok || p != nil {
				t.Errorf("want a nil plugin and a field error, got %v, %v", p, err)
			}
			return
		}
		switch p := p.(type) {
		case nil:
		case *static:
			checkStatic(t, p)
		case *hostLocal:
			checkHostLocal(t, p)
		default:
			t.Errorf("got %T without a directory to find it in", p)
		}
	})
}

func checkStatic(t *testing.T, p *static) {
	result := mustAdd(t, p, Request{})
	if err := usable(result); err != nil {
		t.Errorf("the result is of no use: %v", err)
	}
	if _, err := json.Marshal(result); err != nil {
		t.Error(err)
	}
	mustDel(t, p, Request{})
}

// checkHostLocal walks the ranges without the files: the fuzzer chooses the data directory.
func checkHostLocal(t *testing.T, p *hostLocal) {
	for i := range p.sets {
		set := &p.sets[i]
		if r := set.requested; r != nil && set.find(r.addr) == nil {
			t.Errorf("%s is not in %s", r.addr, set)
		}
		for _, s := range set.spans {
			walk(t, set, i, s.first)
			walk(t, set, i, s.last)
		}
	}
}

// walk takes the addresses that follow the one reserved last.
func walk(t *testing.T, set *rangeSet, index int, last netip.Addr) {
	store := fakestore.NewFakeStore(nil, map[string]net.IP{strconv.Itoa(index): last.AsSlice()})
	candidates, err := allocator.NewIPAllocator(&set.ranges, store, index).GetIter()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[netip.Addr]bool)
	for range 300 {
		host, _ := candidates.Next()
		if host == nil {
			return
		}
		addr := toAddr(host.IP)
		if set.find(addr) == nil || seen[addr] {
			t.Fatalf("%s was offered out of %s, again: %t", addr, set, seen[addr])
		}
		seen[addr] = true
		if !host.Contains(set.find(addr).first.AsSlice()) {
			t.Fatalf("%s has the wrong mask for %s", host, set)
		}
	}
}
