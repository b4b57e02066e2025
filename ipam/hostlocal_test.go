// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/weir-cni/weir/runner"
)

// hostLocalJSON is a configuration of network n with this ipam section and further members.
func hostLocalJSON(dataDir, ipam, more string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n","type":"macvlan",
		"ipam":{"type":"host-local","dataDir":%q%s}%s}`, dataDir, ipam, more)
}

func request1(id string) Request { return Request{ContainerID: id, IfName: "net1"} }

func mustNet(tb testing.TB, cidr string) net.IPNet {
	tb.Helper()
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		tb.Fatal(err)
	}
	return ipNet(prefix)
}

func mustIP(tb testing.TB, s string) net.IP {
	tb.Helper()
	addr, err := netip.ParseAddr(s)
	if err != nil {
		tb.Fatal(err)
	}
	return addr.AsSlice()
}

// reserved returns the names of the files of network n, without those that always stay.
func reserved(tb testing.TB, dataDir string) []string {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Join(dataDir, "n"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); name != lockFile && !strings.HasPrefix(name, lastReservedPrefix) {
			names = append(names, name)
		}
	}
	return names
}

func TestHostLocalAdds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		ipam, more, args string
		want             []string
	}{
		"own range": {
			ipam: `,"subnet":"10.0.0.0/24"`,
			want: []string{"10.0.0.2/24 via 10.0.0.1"},
		},
		"own range with ends and gateway": {
			ipam: `,"subnet":"10.0.0.0/24","rangeStart":"10.0.0.20","rangeEnd":"10.0.0.30","gateway":"10.0.0.254"`,
			want: []string{"10.0.0.20/24 via 10.0.0.254"},
		},
		"both families": {
			ipam: `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"2001:db8::/64"}]]`,
			want: []string{"10.0.0.2/24 via 10.0.0.1", "2001:db8::2/64 via 2001:db8::1"},
		},
		"order of the sources of ranges": {
			ipam: `,"subnet":"10.0.2.0/24","ranges":[[{"subnet":"10.0.3.0/24"}]]`,
			more: `,"runtimeConfig":{"ipRanges":[[{"subnet":"10.0.1.0/24"}]]}`,
			want: []string{"10.0.1.2/24 via 10.0.1.1", "10.0.2.2/24 via 10.0.2.1", "10.0.3.2/24 via 10.0.3.1"},
		},
		"first range is only a gateway": {
			ipam: `,"ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.1","rangeEnd":"10.0.0.1"},{"subnet":"10.0.1.0/24"}]]`,
			want: []string{"10.0.1.2/24 via 10.0.1.1"},
		},
		"gateway of another range": {
			ipam: `,"ranges":[[{"subnet":"10.0.0.0/24","rangeEnd":"10.0.0.9"},
				{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.20","gateway":"10.0.0.2"}]]`,
			want: []string{"10.0.0.3/24 via 10.0.0.1"},
		},
		"requested by runtimeConfig and CNI_ARGS": {
			ipam: `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"2001:db8::/64"}]]`,
			more: `,"runtimeConfig":{"ips":["10.0.0.77/24","2001:db8::77"]}`,
			args: "IgnoreUnknown=1;K8S_POD_NAME=p;IP=10.0.0.77/24,2001:db8::77",
			want: []string{"10.0.0.77/24 via 10.0.0.1", "2001:db8::77/64 via 2001:db8::1"},
		},
		"requested by args.cni": {
			ipam: `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.1.0/24"}]]`,
			more: `,"args":{"cni":{"ips":["10.0.1.9"]}}`,
			want: []string{"10.0.0.2/24 via 10.0.0.1", "10.0.1.9/24 via 10.0.1.1"},
		},
		"requested in a second range": {
			ipam: `,"ranges":[[{"subnet":"10.0.0.0/24"},{"subnet":"10.0.1.0/25","gateway":"10.0.1.126"}]]`,
			args: "IP=10.0.1.9",
			want: []string{"10.0.1.9/25 via 10.0.1.126"},
		},
		"ends that are usually left out": {
			ipam: `,"subnet":"10.0.0.252/30","rangeStart":"10.0.0.255","rangeEnd":"10.0.0.255"`,
			want: []string{"10.0.0.255/30 via 10.0.0.253"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := mustParse(t, hostLocalJSON(dir, tc.ipam, tc.more), tc.args)
			got := addresses(mustAdd(t, p, request1("c")))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("unexpected addresses (-want +got):\n%s", diff)
			}
			mustDel(t, p, request1("c"))
			if left := reserved(t, dir); left != nil {
				t.Errorf("left after DEL: %v", left)
			}
		})
	}
}

type hostLocalCase struct {
	name, config, args, field string
	sentinel                  error
}

func bad(name, ipam, more, args, field string, sentinel error) hostLocalCase {
	return hostLocalCase{name, hostLocalJSON("%s", ipam, more), args, field, sentinel}
}

// hostLocalBad are configurations with %s for the data directory.
var hostLocalBad = []hostLocalCase{
	bad("no range", ``, ``, "", "ipam.ranges", ErrMissing),
	bad("range without subnet", `,"rangeStart":"10.0.0.4"`, ``, "", "ipam.ranges", ErrMissing),
	bad("empty set", `,"ranges":[[{"subnet":"10.0.0.0/24"}],[]]`, ``, "", "ipam.ranges[1]", ErrMissing),
	bad("null set", `,"ranges":[null]`, ``, "", "ipam.ranges[0]", ErrMissing),
	bad("null range", `,"ranges":[[null]]`, ``, "", "ipam.ranges[0][0].subnet", ErrMissing),
	bad("set is a map", `,"ranges":[{"subnet":"10.0.0.0/24"}]`, ``, "", "ipam.ranges", ErrInvalid),
	bad("subnet without prefix", `,"subnet":"10.0.0.0"`, ``, "", "ipam.subnet", ErrNoPrefix),
	bad("subnet with host bits", `,"subnet":"10.0.0.1/24"`, ``, "", "ipam.subnet", ErrInvalid),
	bad("subnet too small", `,"subnet":"10.0.0.0/31"`, ``, "", "ipam.subnet", ErrInvalid),
	bad("subnet IPv4-compatible", `,"subnet":"::1:0/112"`, ``, "", "ipam.subnet", ErrInvalid),
	bad("subnet of everything", `,"subnet":"::/0"`, ``, "", "ipam.subnet", ErrInvalid),
	bad("subnet of multicast", `,"subnet":"ff02::/64"`, ``, "", "ipam.subnet", ErrInvalid),
	bad("start is not an address", `,"subnet":"10.0.0.0/24","rangeStart":"x"`, ``, "", "ipam.rangeStart", ErrInvalid),
	bad("start outside", `,"ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.1.1"}]]`, ``, "", "ipam.ranges[0][0].rangeStart", ErrInvalid),
	bad("start of another family", `,"subnet":"10.0.0.0/24","rangeStart":"2001:db8::1"`, ``, "", "ipam.rangeStart", ErrFamily),
	bad("end outside", `,"subnet":"10.0.0.0/24","rangeEnd":"10.0.1.1"`, ``, "", "ipam.rangeEnd", ErrInvalid),
	bad("end of another family", `,"subnet":"2001:db8::/64","rangeEnd":"10.0.0.1"`, ``, "", "ipam.rangeEnd", ErrFamily),
	bad("end before start", `,"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.8"`, ``, "", "ipam.rangeStart", ErrInvalid),
	bad("start after default end", `,"subnet":"255.255.255.0/24","rangeStart":"255.255.255.255"`, ``, "", "ipam.rangeStart", ErrInvalid),
	bad("gateway of another family", `,"subnet":"10.0.0.0/24","gateway":"2001:db8::1"`, ``, "", "ipam.gateway", ErrFamily),
	bad("mixed families", `,"ranges":[[{"subnet":"10.0.0.0/24"},{"subnet":"2001:db8::/64"}]]`, ``, "", "ipam.ranges[0][1].subnet", ErrFamily),
	bad("overlap in a set", `,"ranges":[[{"subnet":"10.0.0.0/16"},{"subnet":"10.0.3.0/24"}]]`, ``, "", "ipam.ranges[0][1]", ErrOverlap),
	bad("overlap of sets", `,"ranges":[[{"subnet":"10.0.1.0/24"}],[{"subnet":"2001:db8::/64"}],[{"subnet":"10.0.1.128/25"}]]`, ``, "", "ipam.ranges[2][0]", ErrOverlap),
	bad("same range twice", `,"subnet":"10.0.0.0/24","ranges":[[{"subnet":"10.0.0.0/24"}]]`, ``, "", "ipam.ranges[0][0]", ErrOverlap),
	bad("overlap with runtimeConfig", `,"subnet":"10.0.0.0/24"`, `,"runtimeConfig":{"ipRanges":[[{"subnet":"10.0.0.0/25"}]]}`, "", "ipam", ErrOverlap),
	bad("bad runtimeConfig range", `,"subnet":"10.0.0.0/24"`, `,"runtimeConfig":{"ipRanges":[[{"subnet":"x"}]]}`, "", "runtimeConfig.ipRanges[0][0].subnet", ErrInvalid),
	bad("request outside", `,"subnet":"10.0.0.0/24"`, `,"runtimeConfig":{"ips":["10.0.1.4"]}`, "", "runtimeConfig.ips[0]", ErrOutOfRange),
	bad("request of another family", `,"subnet":"10.0.0.0/24"`, `,"args":{"cni":{"ips":["2001:db8::4"]}}`, "", "args.cni.ips[0]", ErrFamily),
	bad("request of the gateway", `,"subnet":"10.0.0.0/24"`, ``, "IP=10.0.0.1", "CNI_ARGS.IP", ErrGateway),
	bad("two requests of a set", `,"subnet":"10.0.0.0/24"`, `,"runtimeConfig":{"ips":["10.0.0.4","10.0.0.5"]}`, "", "runtimeConfig.ips[1]", ErrOutOfRange),
	bad("two sources differ", `,"subnet":"10.0.0.0/24"`, `,"runtimeConfig":{"ips":["10.0.0.4"]}`, "IP=10.0.0.5", "CNI_ARGS.IP", ErrOutOfRange),
	bad("request is not an address", `,"subnet":"10.0.0.0/24"`, `,"runtimeConfig":{"ips":["x"]}`, "", "runtimeConfig.ips[0]", ErrInvalid),
	bad("request is empty", `,"subnet":"10.0.0.0/24"`, `,"runtimeConfig":{"ips":[""]}`, "", "runtimeConfig.ips[0]", ErrMissing),
	bad("CNI_ARGS pair", `,"subnet":"10.0.0.0/24"`, ``, "IP=1=2", "CNI_ARGS", ErrInvalid),
	bad("route", `,"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0"}]`, ``, "", "ipam.routes[0].dst", ErrNoPrefix),
	{"relative data directory", `{"name":"n","cniVersion":"1.1.0","ipam":{"type":"host-local","dataDir":".%s","subnet":"10.0.0.0/24"}}`, "", "ipam.dataDir", ErrInvalid},
	{"no name", `{"cniVersion":"1.1.0","ipam":{"type":"host-local","dataDir":"%s","subnet":"10.0.0.0/24"}}`, "", "name", ErrInvalid},
	{"name is a path", `{"name":"../n","cniVersion":"1.1.0","ipam":{"type":"host-local","dataDir":"%s","subnet":"10.0.0.0/24"}}`, "", "name", ErrInvalid},
	{"old version, two of a family", `{"name":"n","cniVersion":"0.2.0","ipam":{"type":"host-local","dataDir":"%s",
		"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.1.0/24"}]]}}`, "", "cniVersion", ErrInvalid},
}

func TestHostLocalRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range hostLocalBad {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			p, err := Parse(fmt.Appendf(nil, tc.config, dir), nil, tc.args, &runner.Runner{})
			if p != nil {
				t.Errorf("got a plugin: %v", p)
			}
			wantField(t, err, tc.field, tc.sentinel)
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the data directory was touched: %v", err)
			}
		})
	}
}

func TestHostLocalDefaultDataDir(t *testing.T) {
	t.Parallel()
	p := mustParse(t, `{"name":"n","cniVersion":"1.1.0","ipam":{"type":"host-local","subnet":"10.0.0.0/24"}}`, "")
	if got := p.(*hostLocal).dataDir; got != "/var/lib/cni/networks" {
		t.Errorf("got %s", got)
	}
}

func TestHostLocalGoesRound(t *testing.T) {
	t.Parallel()
	p := mustParse(t, hostLocalJSON(t.TempDir(), `,"subnet":"10.0.0.0/29"`, ""), "")
	var got []string
	for i := range 7 {
		id := fmt.Sprintf("c%d", i)
		got = append(got, addresses(mustAdd(t, p, request1(id)))...)
		mustDel(t, p, request1(id))
	}
	want := []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3"}
	for i := range want {
		want[i] += "/29 via 10.0.0.1"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unexpected addresses (-want +got):\n%s", diff)
	}
}

func TestHostLocalNamesExhaustion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := mustParse(t, hostLocalJSON(dir, `,"ranges":[[{"subnet":"10.0.0.0/24"}],
		[{"subnet":"10.1.0.0/30"},{"subnet":"10.2.0.0/30","rangeStart":"10.2.0.2","rangeEnd":"10.2.0.2"}]]`, ""), "")
	mustAdd(t, p, request1("a"))
	mustAdd(t, p, request1("b"))
	for range 2 {
		_, err := p.Add(t.Context(), request1("c"))
		wantField(t, err, "ipam.ranges[1]", ErrExhausted)
		want := `reserving addresses of network n for net1 of container c: ` +
			`ipam.ranges[1] "10.1.0.1-10.1.0.2,10.2.0.2-10.2.0.2": has no free address`
		if err.Error() != want {
			t.Errorf("want %s, got %s", want, err)
		}
		if diff := cmp.Diff([]string{"10.0.0.2", "10.0.0.3", "10.1.0.2", "10.2.0.2"}, reserved(t, dir)); diff != "" {
			t.Errorf("the first range set was not rolled back (-want +got):\n%s", diff)
		}
	}
	mustDel(t, p, request1("a"))
	mustAdd(t, p, request1("c"))
}

func TestHostLocalRequestInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := hostLocalJSON(dir, `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.1.0.0/24"}]]`,
		`,"runtimeConfig":{"ips":["10.1.0.9"]}`)
	p := mustParse(t, config, "")
	mustAdd(t, p, request1("a"))
	_, err := p.Add(t.Context(), request1("b"))
	wantField(t, err, "runtimeConfig.ips[0]", ErrInUse)
	if diff := cmp.Diff([]string{"10.0.0.2", "10.1.0.9"}, reserved(t, dir)); diff != "" {
		t.Errorf("unexpected reservations (-want +got):\n%s", diff)
	}
}

func TestHostLocalSecondAddChangesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const ranges = `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.1.0.0/24"}]]`
	p := mustParse(t, hostLocalJSON(dir, ranges, ""), "")
	mustAdd(t, p, request1("a"))
	for _, second := range []Plugin{p, mustParse(t, hostLocalJSON(dir, ranges, ""), "IP=10.0.0.50")} {
		if _, err := second.Add(t.Context(), request1("a")); !errors.Is(err, ErrReserved) {
			t.Errorf("want %v, got %v", ErrReserved, err)
		}
		if diff := cmp.Diff([]string{"10.0.0.2", "10.1.0.2"}, reserved(t, dir)); diff != "" {
			t.Errorf("unexpected reservations (-want +got):\n%s", diff)
		}
	}
	mustAdd(t, p, Request{ContainerID: "a", IfName: "net2"})
	mustDel(t, p, request1("a"))
	if diff := cmp.Diff([]string{"10.0.0.3", "10.1.0.3"}, reserved(t, dir)); diff != "" {
		t.Errorf("DEL of net1 is not of net1 alone (-want +got):\n%s", diff)
	}
}

func TestHostLocalCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := mustParse(t, hostLocalJSON(dir, `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.1.0.0/24"}]]`, ""), "")
	check := func() error { return p.Check(t.Context(), request1("a")) }
	if err := check(); !errors.Is(err, ErrNotReserved) {
		t.Errorf("before ADD: %v", err)
	}
	mustAdd(t, p, request1("a"))
	for range 2 {
		if err := check(); err != nil {
			t.Errorf("after ADD: %v", err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "n", "10.1.0.2")); err != nil {
		t.Fatal(err)
	}
	if err := check(); !errors.Is(err, ErrNotReserved) || !strings.Contains(err.Error(), "ipam.ranges[1]") {
		t.Errorf("with one address gone: %v", err)
	}
	for range 2 {
		mustDel(t, p, request1("a"))
	}
	if err := check(); !errors.Is(err, ErrNotReserved) {
		t.Errorf("after DEL: %v", err)
	}
}

func TestHostLocalCheckAndDelCreateNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := mustParse(t, hostLocalJSON(dir, `,"subnet":"10.0.0.0/24"`, ""), "")
	if err := p.Check(t.Context(), request1("a")); !errors.Is(err, ErrNotReserved) {
		t.Errorf("want %v, got %v", ErrNotReserved, err)
	}
	mustDel(t, p, request1("a"))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory was made: %v", err)
	}
}

func TestHostLocalDelAfterTheRangesChanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustAdd(t, mustParse(t, hostLocalJSON(dir, `,"subnet":"10.0.0.0/24"`, ""), ""), request1("a"))
	mustDel(t, mustParse(t, hostLocalJSON(dir, `,"subnet":"10.9.0.0/24"`, ""), ""), request1("a"))
	if left := reserved(t, dir); left != nil {
		t.Errorf("left after DEL: %v", left)
	}
}

// An empty container ID matches the content of every empty file.
func TestHostLocalRefusesBadAttachments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := mustParse(t, hostLocalJSON(dir, `,"subnet":"10.0.0.0/24"`, ""), "")
	mustAdd(t, p, request1("a"))
	for name, tc := range map[string]struct {
		req   Request
		field string
	}{
		"no container ID":     {Request{IfName: "net1"}, "CNI_CONTAINERID"},
		"container ID a path": {Request{ContainerID: "../a", IfName: "net1"}, "CNI_CONTAINERID"},
		"no interface name":   {Request{ContainerID: "a"}, "CNI_IFNAME"},
		"long interface name": {Request{ContainerID: "a", IfName: "a234567890123456"}, "CNI_IFNAME"},
	} {
		_, err := p.Add(t.Context(), tc.req)
		wantField(t, err, tc.field, ErrInvalid)
		wantField(t, p.Check(t.Context(), tc.req), tc.field, ErrInvalid)
		wantField(t, p.Del(t.Context(), tc.req), tc.field, ErrInvalid)
		if diff := cmp.Diff([]string{"10.0.0.2"}, reserved(t, dir)); diff != "" {
			t.Errorf("%s: unexpected reservations (-want +got):\n%s", name, diff)
		}
	}
}

func TestHostLocalDataDirIsAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, hostLocalJSON(file, `,"subnet":"10.0.0.0/24"`, ""), "")
	if _, err := p.Add(t.Context(), request1("a")); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("want %v, got %v", unix.ENOTDIR, err)
	}
}

// A directory in the place of a file that a reservation needs makes writing fail at that step.
func TestHostLocalRollsBackWhenWritingFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := mustParse(t, hostLocalJSON(dir, `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.1.0.0/24"}]]`, ""), "")
	obstacle := filepath.Join(dir, "n", lastReservedPrefix+"1")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := p.Add(t.Context(), request1("a"))
	wantField(t, err, "ipam.ranges[1]", unix.EISDIR)
	if left := reserved(t, dir); left != nil {
		t.Errorf("left after the failure: %v", left)
	}
}

func TestHostLocalWaitsForTheLockUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := mustParse(t, hostLocalJSON(dir, `,"subnet":"10.0.0.0/24"`, ""), "")
	mustAdd(t, p, request1("a"))
	lock, err := acquire(t.Context(), filepath.Join(dir, "n", lockFile))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, addErr := p.Add(ctx, request1("b"))
	for name, err := range map[string]error{
		"Add": addErr, "Check": p.Check(ctx, request1("a")), "Del": p.Del(ctx, request1("a")),
	} {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: want %v, got %v", name, context.DeadlineExceeded, err)
		}
	}
	time.AfterFunc(20*time.Millisecond, func() { lock.Close() })
	mustDel(t, p, request1("a"))
	if left := reserved(t, dir); left != nil {
		t.Errorf("left after DEL: %v", left)
	}
}

func TestHostLocalReadsResolvConf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "resolv.conf")
	content := "# comment\n; comment\nnameserver 10.0.0.53\n  nameserver\t2001:db8::53 \n" +
		"domain a.example\nsearch b.example c.example\nsearch d.example\noptions ndots:1 rotate\nnameserver\nsortlist 10.0.0.0"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, hostLocalJSON(dir, fmt.Sprintf(`,"subnet":"10.0.0.0/24","resolvConf":%q`, file), ""), "")
	want := types.DNS{
		Nameservers: []string{"10.0.0.53", "2001:db8::53"}, Domain: "a.example",
		Search: []string{"b.example", "c.example", "d.example"}, Options: []string{"ndots:1", "rotate"},
	}
	if diff := cmp.Diff(want, mustAdd(t, p, request1("a")).DNS); diff != "" {
		t.Errorf("unexpected DNS (-want +got):\n%s", diff)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	mustDel(t, p, request1("a"))
}

func TestHostLocalBadResolvConf(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"/nonexistent": os.ErrNotExist, "/dev/zero": ErrInvalid, "/": ErrInvalid, fifo: ErrInvalid,
	} {
		dir := t.TempDir()
		p := mustParse(t, hostLocalJSON(dir, fmt.Sprintf(`,"subnet":"10.0.0.0/24","resolvConf":%q`, path), ""), "")
		_, err := p.Add(t.Context(), request1("a"))
		wantField(t, err, "ipam.resolvConf", want)
		if left := reserved(t, dir); left != nil {
			t.Errorf("%s: reserved %v", path, left)
		}
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 10.0.0.53\nsearch a b\noptions x\ndomain d\n")
	f.Add("nameserver\x00\n\r\nsearch")
	f.Fuzz(func(t *testing.T, content string) {
		dns := parseResolvConf(content)
		for _, word := range append(append(append(dns.Nameservers, dns.Search...), dns.Options...), dns.Domain) {
			if strings.ContainsAny(word, " \t\r\n") {
				t.Errorf("%q is not one word", word)
			}
		}
	})
}

// ledger knows who holds which address by what Add said.
type ledger struct {
	mu      sync.Mutex
	holders map[string]string
}

func (l *ledger) add(addrs []string, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, addr := range addrs {
		if holder, held := l.holders[addr]; held {
			return fmt.Errorf("%s was given to %s while %s held it", addr, id, holder)
		}
		l.holders[addr] = id
	}
	return nil
}

// remove comes before Del, in the course of which others may get the addresses.
func (l *ledger) remove(addrs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, addr := range addrs {
		delete(l.holders, addr)
	}
}

// worker adds and deletes as steps say and leaves nothing behind.
func worker(ctx context.Context, p Plugin, l *ledger, id string, steps []bool) error {
	held := map[string][]string{}
	del := func(ifName string) error {
		l.remove(held[ifName])
		delete(held, ifName)
		return p.Del(ctx, Request{ContainerID: id, IfName: ifName})
	}
	for i, add := range steps {
		ifName := fmt.Sprintf("net%d", i%3)
		if !add {
			if err := del(ifName); err != nil {
				return err
			}
			continue
		}
		result, err := p.Add(ctx, Request{ContainerID: id, IfName: ifName})
		switch {
		case errors.Is(err, ErrReserved) && held[ifName] != nil, errors.Is(err, ErrExhausted):
			continue
		case err != nil:
			return err
		}
		held[ifName] = addresses(result)
		if err := l.add(held[ifName], id+"/"+ifName); err != nil {
			return err
		}
	}
	for ifName := range held {
		if err := del(ifName); err != nil {
			return err
		}
	}
	return nil
}

func TestHostLocalNeverGivesAnAddressTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		last := rapid.IntRange(2, 20).Draw(rt, "last address")
		config := hostLocalJSON(dir, fmt.Sprintf(`,"ranges":[[{"subnet":"10.0.0.0/24","rangeEnd":"10.0.0.%d"}],
			[{"subnet":"2001:db8::/64","rangeEnd":"2001:db8::9"},{"subnet":"2001:db8:1::/64","rangeEnd":"2001:db8:1::9"}]]`, last), "")
		plugins := []Plugin{mustParse(t, config, ""), mustParse(t, config, "")}
		scripts := rapid.SliceOfN(rapid.SliceOfN(rapid.Bool(), 1, 8), 2, 12).Draw(rt, "scripts")
		l := &ledger{holders: map[string]string{}}
		errs := make([]error, len(scripts))
		var wg sync.WaitGroup
		for i, script := range scripts {
			wg.Go(func() { errs[i] = worker(t.Context(), plugins[i%2], l, fmt.Sprintf("c%d", i), script) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			rt.Fatal(err)
		}
		if left := reserved(t, dir); left != nil {
			rt.Fatalf("left after DEL: %v", left)
		}
		for i := range min(last-1, 16) {
			mustAdd(t, plugins[i%2], request1(fmt.Sprintf("full%d", i)))
		}
		if _, err := plugins[0].Add(t.Context(), request1("over")); !errors.Is(err, ErrExhausted) {
			rt.Fatalf("want %v, got %v", ErrExhausted, err)
		}
	})
}

func TestHostLocalManyAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := hostLocalJSON(dir, `,"subnet":"10.0.0.0/24"`, "")
	plugins := []Plugin{mustParse(t, config, ""), mustParse(t, config, "")}
	l := &ledger{holders: map[string]string{}}
	errs := make([]error, 200)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			errs[i] = worker(t.Context(), plugins[i%2], l, fmt.Sprintf("c%d", i), []bool{true})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if left := reserved(t, dir); left != nil {
		t.Errorf("left after DEL: %v", left)
	}
}

// Not parallel: it counts the descriptors of the process.
func TestHostLocalClosesItsFiles(t *testing.T) {
	dir := t.TempDir()
	p := mustParse(t, hostLocalJSON(dir, `,"subnet":"10.0.0.0/30"`, ""), "")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	cycle := func() {
		mustAdd(t, p, request1("a"))
		if _, err := p.Add(t.Context(), request1("b")); !errors.Is(err, ErrExhausted) {
			t.Fatal(err)
		}
		lock, err := acquire(t.Context(), filepath.Join(dir, "n", lockFile))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Check(cancelled, request1("a")); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
		if err := p.Check(t.Context(), request1("a")); err != nil {
			t.Fatal(err)
		}
		mustDel(t, p, request1("a"))
	}
	cycle()
	before := openFiles(t)
	for range 50 {
		cycle()
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d files were open before, %d after", before, after)
	}
}

func openFiles(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

const crashIPAM = `,"ranges":[[{"subnet":"10.0.0.0/16"}],[{"subnet":"2001:db8::/64"}]]`

// reserveForever is the process that TestHostLocalKilled kills.
func reserveForever(dir string) {
	p, err := Parse([]byte(hostLocalJSON(dir, crashIPAM, "")), nil, "", &runner.Runner{})
	for err == nil {
		for i := 0; err == nil && i < 8; i++ {
			_, err = p.Add(context.Background(), request1(fmt.Sprintf("c%d", i)))
		}
		for i := 0; err == nil && i < 8; i++ {
			err = p.Del(context.Background(), request1(fmt.Sprintf("c%d", i)))
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestHostLocalKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := mustParse(t, hostLocalJSON(dir, crashIPAM, ""), "")
	for round := range 25 {
		var stderr strings.Builder
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashDir+"="+dir)
		child.Stderr = &stderr
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		waitForReservation(t, dir)
		time.Sleep(time.Duration(round*37%1000) * 10 * time.Microsecond)
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := child.Wait(); err == nil || stderr.Len() > 0 {
			t.Fatalf("the process was not killed at work: %v, %s", err, stderr.String())
		}
		for i := range 8 {
			mustDel(t, p, request1(fmt.Sprintf("c%d", i)))
		}
		if left := reserved(t, dir); left != nil {
			t.Fatalf("round %d: left after DEL: %v", round, left)
		}
	}
}

func waitForReservation(tb testing.TB, dir string) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(reserved(tb, dir)) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal("the process reserves nothing")
		}
	}
}

// What a process left that died before the reservation had its name goes with the next operation.
func TestHostLocalRemovesUnfinishedReservations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := mustParse(t, hostLocalJSON(dir, `,"subnet":"10.0.0.0/30"`, ""), "")
	mustAdd(t, p, request1("a"))
	mustDel(t, p, request1("a"))
	for _, content := range []string{"", "b\r\nnet1", "c"} {
		if err := os.WriteFile(filepath.Join(dir, "n", unnamed), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		mustDel(t, p, request1("b"))
		if left := reserved(t, dir); left != nil {
			t.Errorf("left of %q: %v", content, left)
		}
	}
}

func BenchmarkHostLocal(b *testing.B) {
	p := mustParse(b, hostLocalJSON(b.TempDir(), `,"subnet":"10.0.0.0/16"`, ""), "")
	for i := range 110 {
		mustAdd(b, p, request1(fmt.Sprintf("node%d", i)))
	}
	for b.Loop() {
		mustAdd(b, p, request1("a"))
		mustDel(b, p, request1("a"))
	}
}
