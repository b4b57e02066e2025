// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/runner"
)

const executedJSON = `{"cniVersion":"0.4.0","name":"n","type":"macvlan","ipam":{"type":"fake","range":"unread"}}`

// script installs an IPAM plugin that logs its commands and runs body. The result is the directory
// that it is in.
func script(tb testing.TB, body string) string {
	tb.Helper()
	dir := tb.TempDir()
	text := "#!/bin/sh\ncd " + dir + "\necho $CNI_COMMAND >>log\n" + body + "\n"
	if err := os.WriteFile(filepath.Join(dir, "fake"), []byte(text), 0o700); err != nil { //nolint:gosec // It is executed.
		tb.Fatal(err)
	}
	return dir
}

func read(tb testing.TB, dir, name string) string {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(content)
}

func mustFind(tb testing.TB, dir string) Plugin {
	tb.Helper()
	p, err := Parse([]byte(executedJSON), []string{"/nonexistent", dir}, "", &runner.Runner{})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestExecutedNotFoundNamesDirectories(t *testing.T) {
	t.Parallel()
	for want, path := range map[string][]string{
		`ipam.type "fake": no such plugin in /a, /b`:              {"/a", "", "/b"},
		`ipam.type "fake": no such plugin in no directory at all`: nil,
	} {
		_, err := Parse([]byte(executedJSON), path, "", &runner.Runner{})
		wantField(t, err, "ipam.type", ErrPluginNotFound)
		if err.Error() != want {
			t.Errorf("want %s, got %s", want, err)
		}
	}
}

func TestExecutedGetsTheRequest(t *testing.T) {
	t.Parallel()
	dir := script(t, `cat >stdin.$CNI_COMMAND
env | grep ^CNI_ | sort >env.$CNI_COMMAND
echo '{"ips":[{"version":"4","address":"10.0.0.7/24"}]}'`)
	p := mustFind(t, dir)
	config := strings.Replace(executedJSON, `"unread"`, `"other"`, 1)
	req := Request{
		ContainerID: "c", Netns: "/run/netns/x", IfName: "net1", Args: "IgnoreUnknown=1;A=b",
		Path: []string{"/p", "/q"}, Config: []byte(config),
	}
	mustAdd(t, p, req)
	if err := p.Check(t.Context(), req); err != nil {
		t.Error(err)
	}
	mustDel(t, p, req)
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		want := "CNI_ARGS=IgnoreUnknown=1;A=b\nCNI_COMMAND=" + command +
			"\nCNI_CONTAINERID=c\nCNI_IFNAME=net1\nCNI_NETNS=/run/netns/x\nCNI_PATH=/p:/q\n"
		if diff := cmp.Diff(want, read(t, dir, "env."+command)); diff != "" {
			t.Errorf("unexpected environment of %s (-want +got):\n%s", command, diff)
		}
		if got := read(t, dir, "stdin."+command); got != config {
			t.Errorf("%s got %s", command, got)
		}
	}
	mustAdd(t, p, Request{ContainerID: "c", IfName: "net1"})
	if got := read(t, dir, "stdin.ADD"); got != executedJSON {
		t.Errorf("without a configuration in the request it got %s", got)
	}
	if got := read(t, dir, "env.ADD"); !strings.Contains(got, "CNI_PATH=/nonexistent:"+dir+"\n") || !strings.Contains(got, "CNI_ARGS=\n") {
		t.Errorf("without a path in the request it got %s", got)
	}
}

func TestExecutedResult(t *testing.T) {
	t.Parallel()
	for name, output := range map[string]string{
		"current": `{"cniVersion":"1.1.0","interfaces":[{"name":"x"}],
			"ips":[{"address":"10.0.0.7/24","gateway":"10.0.0.1","interface":0},{"address":"2001:db8::7/64"}],
			"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}],"dns":{"domain":"a.example"}}`,
		"of the configuration's version": `{
			"ips":[{"version":"4","address":"10.0.0.7/24","gateway":"10.0.0.1"},{"version":"6","address":"2001:db8::7/64"}],
			"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}],"dns":{"domain":"a.example"}}`,
		"0.2.0": `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.7/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]},
			"ip6":{"ip":"2001:db8::7/64"},"dns":{"domain":"a.example"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := mustFind(t, script(t, "cat <<E\n"+output+"\nE"))
			got := mustAdd(t, p, request1("c"))
			want := &current.Result{
				CNIVersion: "1.1.0",
				IPs: []*current.IPConfig{
					{Address: mustNet(t, "10.0.0.7/24"), Gateway: mustIP(t, "10.0.0.1")},
					{Address: mustNet(t, "2001:db8::7/64")},
				},
				Routes: []*types.Route{{Dst: mustNet(t, "0.0.0.0/0"), GW: mustIP(t, "10.0.0.1")}},
				DNS:    types.DNS{Domain: "a.example"},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
		})
	}
}

var unusableResults = map[string]struct {
	output, field string
	sentinel      error
}{
	"no address":              {`{"cniVersion":"1.1.0"}`, "result.ips", ErrNoAddress},
	"null":                    {`null`, "result.ips", ErrNoAddress},
	"null address":            {`{"ips":[null]}`, "result.ips[0]", ErrMissing},
	"null interface":          {`{"interfaces":[null],"ips":[{"version":"4","address":"10.0.0.7/24"}]}`, "result.interfaces[0]", ErrMissing},
	"null route":              {`{"ips":[{"version":"4","address":"10.0.0.7/24"}],"routes":[null]}`, "result.routes[0]", ErrMissing},
	"address without address": {`{"ips":[{"version":"4"}]}`, "result.ips[0].address", ErrMissing},
	"unspecified address":     {`{"ips":[{"version":"4","address":"0.0.0.0/0"}]}`, "result.ips[0].address", ErrInvalid},
	"same address twice": {
		`{"ips":[{"version":"4","address":"10.0.0.7/24"},{"version":"4","address":"10.0.0.7/24"}]}`,
		"result.ips[1].address", ErrDuplicate,
	},
	"gateway of another family": {
		`{"ips":[{"version":"4","address":"10.0.0.7/24","gateway":"2001:db8::1"}]}`, "result.ips[0].gateway", ErrFamily,
	},
	"route without destination": {
		`{"ips":[{"version":"4","address":"10.0.0.7/24"}],"routes":[{"gw":"10.0.0.1"}]}`, "result.routes[0].dst", ErrMissing,
	},
	"route with gateway of another family": {
		`{"ips":[{"version":"4","address":"10.0.0.7/24"}],"routes":[{"dst":"::/0","gw":"10.0.0.1"}]}`, "result.routes[0].gw", ErrFamily,
	},
}

func TestExecutedUnusableResultIsUndone(t *testing.T) {
	t.Parallel()
	for name, tc := range unusableResults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := script(t, "cat <<E\n"+tc.output+"\nE")
			_, err := mustFind(t, dir).Add(t.Context(), request1("c"))
			wantField(t, err, tc.field, tc.sentinel)
			if !strings.HasPrefix(err.Error(), "executing IPAM plugin fake, ADD of net1: ") {
				t.Errorf("the plugin is not named: %v", err)
			}
			if got := read(t, dir, "log"); got != "ADD\nDEL\n" {
				t.Errorf("it was called with %q", got)
			}
		})
	}
}

func TestExecutedOutputThatIsNoResultIsUndone(t *testing.T) {
	t.Parallel()
	for name, output := range map[string]string{
		"nothing": ``, "text": `done`, "a list": `[]`, "unknown version": `{"cniVersion":"9.0.0"}`,
		"bad address": `{"ips":[{"version":"4","address":"10.0.0.7"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := script(t, "cat <<E\n"+output+"\nE")
			if result, err := mustFind(t, dir).Add(t.Context(), request1("c")); err == nil {
				t.Errorf("got %v", result)
			}
			if got := read(t, dir, "log"); got != "ADD\nDEL\n" {
				t.Errorf("it was called with %q", got)
			}
		})
	}
}

func TestExecutedRefusal(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		want types.Error
	}{
		"with an error": {
			`echo '{"cniVersion":"0.4.0","code":11,"msg":"pool is full","details":"10.0.0.0/24"}'; exit 1`,
			types.Error{Code: 11, Msg: "pool is full", Details: "10.0.0.0/24"},
		},
		"with text": {
			`echo out; echo trouble >&2; exit 3`,
			types.Error{Code: types.ErrInternal, Msg: "exit status 3", Details: "out; trouble"},
		},
		"silently": {`exit 2`, types.Error{Code: types.ErrInternal, Msg: "exit status 2"}},
		"killed":   {`kill -9 $$`, types.Error{Code: types.ErrInternal, Msg: "signal: killed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := script(t, tc.body)
			p := mustFind(t, dir)
			_, addErr := p.Add(t.Context(), request1("c"))
			for _, err := range []error{addErr, p.Check(t.Context(), request1("c")), p.Del(t.Context(), request1("c"))} {
				got, ok := errors.AsType[*types.Error](err)
				if !ok {
					t.Fatalf("want a CNI error, got %v", err)
				}
				if diff := cmp.Diff(tc.want, *got); diff != "" {
					t.Errorf("unexpected error (-want +got):\n%s", diff)
				}
			}
			if got := read(t, dir, "log"); got != "ADD\nCHECK\nDEL\n" {
				t.Errorf("it was called with %q", got)
			}
		})
	}
}

func TestExecutedNotExecutable(t *testing.T) {
	t.Parallel()
	dir := script(t, "")
	if err := os.Chmod(filepath.Join(dir, "fake"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := mustFind(t, dir).Add(t.Context(), request1("c"))
	if cniErr, ok := errors.AsType[*types.Error](err); !ok || !strings.Contains(cniErr.Msg, "permission denied") {
		t.Errorf("got %v", err)
	}
}

// The plugin's child holds its output open; neither may outlive the context.
func TestExecutedIsCutOff(t *testing.T) {
	t.Parallel()
	dir := script(t, `[ $CNI_COMMAND = DEL ] && exit 0
sleep 300 &
echo $! >pid
wait`)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	start := time.Now()
	_, err := mustFind(t, dir).Add(ctx, request1("c"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, got %v", context.Canceled, err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if got := read(t, dir, "log"); got != "ADD\nDEL\n" {
		t.Errorf("it was called with %q", got)
	}
	stat := filepath.Join("/proc", strings.TrimSpace(read(t, dir, "pid")), "stat")
	// It was killed, which on a busy machine takes a moment to come true.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		status, err := os.ReadFile(stat)
		if err != nil || strings.Contains(string(status), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the plugin's child is alive: %s", status)
		}
	}
}

func TestExecutedLeavesADaemon(t *testing.T) {
	t.Parallel()
	dir := script(t, `sleep 60 &
echo $! >pid
echo '{"ips":[{"version":"4","address":"10.0.0.7/24"}]}'`)
	p := mustFind(t, dir)
	start := time.Now()
	got := addresses(mustAdd(t, p, request1("c")))
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, dir, "pid")))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
	if diff := cmp.Diff([]string{"10.0.0.7/24"}, got); diff != "" {
		t.Errorf("unexpected addresses (-want +got):\n%s", diff)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// FuzzResult feeds the bytes that a plugin prints to all that looks at them.
func FuzzResult(f *testing.F) {
	for _, tc := range unusableResults {
		f.Add([]byte(tc.output))
	}
	f.Add([]byte(`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.7/24","gateway":"10.0.0.1","interface":0}],
		"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1","mtu":9}],"dns":{"domain":"a.example"}}`))
	f.Add([]byte(`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.7/24","routes":[{"dst":"0.0.0.0/0"}]},"ip6":null}`))
	f.Add([]byte(`{"cniVersion":"0.4.0","interfaces":[null],"ips":[{"version":"6","address":"2001:db8::7/64"}]}`))
	f.Fuzz(func(t *testing.T, output []byte) {
		raw, err := create.CreateFromBytes(output)
		if err != nil {
			return
		}
		result, err := convert("result", raw)
		if err != nil || usable(result) != nil {
			return
		}
		for _, ip := range result.IPs {
			if _, bits := ip.Address.Mask.Size(); len(ip.Address.IP)*8 != bits || ip.Interface != nil {
				t.Errorf("not normal: %#v", ip)
			}
		}
	})
}
