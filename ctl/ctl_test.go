// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/state"
)

// update has the views that tests see written to testdata: go test ./ctl -update
var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func web() api.AttachmentStatus {
	return api.AttachmentStatus{
		Attachment: attachment.Attachment{
			ID:        attachment.ID{ContainerID: "c0ffee", Interface: "net1"},
			Pod:       attachment.Pod{Namespace: "shop", Name: "web"},
			Network:   "shop/lan",
			Type:      "macvlan",
			Master:    "eth1",
			Mode:      "bridge",
			MAC:       "02:00:00:00:00:01",
			MTU:       1500,
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.8/24"), netip.MustParsePrefix("2001:db8::8/64")},
			PinDir:    "c0ffee-net1",
		},
		Hook:     "tcx",
		Receive:  api.Traffic{Packets: 12, Bytes: 999},
		Transmit: api.Traffic{Packets: 3, Bytes: 1500000},
		Allowed:  []api.Share{{Direction: "ingress", Class: "unicast", Protocol: "tcp", Packets: 12, Bytes: 999}},
		Dropped:  []api.Drop{{Direction: "egress", Reason: "spoofed_ipv4", Packets: 4, Bytes: 392}},
	}
}

// other has no address, no guard and no pod, and two reasons.
func other() api.AttachmentStatus {
	return api.AttachmentStatus{
		Attachment: attachment.Attachment{
			ID: attachment.ID{ContainerID: "beef", Interface: "net2"}, Network: "default/san", Addresses: []netip.Prefix{},
		},
		Allowed: []api.Share{},
		Dropped: []api.Drop{
			{Direction: "egress", Reason: "spoofed_mac", Packets: 1, Bytes: 60}, {Direction: "egress", Reason: "malformed", Packets: 2, Bytes: 90},
		},
	}
}

// agent serves a list on a socket.
func agent(t *testing.T, items ...api.AttachmentStatus) (socket string) {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(&api.AttachmentList{APIVersion: api.Version, Items: append([]api.AttachmentStatus{}, items...)})
	})
}

func serve(t *testing.T, answer http.HandlerFunc) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "weir.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: answer}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

func run(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Run(append([]string{"weirctl"}, args...), "test", &out, &err)
	return code, out.String(), err.String()
}

// aged is an attachment that was made so long ago. Ages are shown to a minute
// from 10 minutes on, so a slow test prints the same.
func aged(a api.AttachmentStatus, age time.Duration) api.AttachmentStatus {
	a.Created = time.Now().Add(-age)
	return a
}

// dated is an attachment that was made at a fixed instant.
func dated(a api.AttachmentStatus) api.AttachmentStatus {
	a.Created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return a
}

// Each view, to the byte, is in testdata.
func TestGet(t *testing.T) {
	t.Parallel()
	young, old := aged(web(), 90*time.Minute), aged(other(), 49*time.Hour)
	sibling := aged(web(), 2*time.Hour)
	sibling.Pod.Name, sibling.ContainerID, sibling.Master = "db", "f00d", "eth2"
	tests := []struct {
		golden string
		items  []api.AttachmentStatus
		args   []string
	}{
		{"none.table", nil, nil},
		{"none.wide", nil, []string{"-o", "wide"}},
		{"none.json", nil, []string{"-o", "json"}},
		{"none.yaml", nil, []string{"-o", "yaml"}},
		{"one.table", []api.AttachmentStatus{young}, nil},
		{"one.table", []api.AttachmentStatus{young}, []string{"attachments", "--output", "table"}},
		{"one.wide", []api.AttachmentStatus{young}, []string{"-o", "wide"}},
		{"one.json", []api.AttachmentStatus{dated(web())}, []string{"-o", "json"}},
		{"one.yaml", []api.AttachmentStatus{dated(web())}, []string{"-o", "yaml"}},
		{"many.table", []api.AttachmentStatus{old, young}, nil},
		{"many.wide", []api.AttachmentStatus{old, young}, []string{"-o", "wide"}},
		{"many.json", []api.AttachmentStatus{dated(other()), dated(web())}, []string{"-o", "json"}},
		{"many.yaml", []api.AttachmentStatus{dated(other()), dated(web())}, []string{"-o", "yaml"}},
		{"one.table", []api.AttachmentStatus{old, young}, []string{"-n", "shop"}},
		{"one.json", []api.AttachmentStatus{dated(other()), dated(web())}, []string{"--namespace", "shop", "-o", "json"}},
		{"none.table", []api.AttachmentStatus{old, young}, []string{"-n", "nowhere"}},
		{"many.table", []api.AttachmentStatus{old, young}, []string{"-A"}},
		{"none.name", nil, []string{"-o", "name"}},
		{"one.name", []api.AttachmentStatus{young}, []string{"-o", "name"}},
		{"many.name", []api.AttachmentStatus{old, young}, []string{"-o", "name"}},
		{"one.table", []api.AttachmentStatus{old, young}, []string{"attachments", "web"}},
		{"one.table", []api.AttachmentStatus{old, young}, []string{"att", "shop/web"}},
		{"one.table", []api.AttachmentStatus{old, young}, []string{"attachment", "shop/web/net1", "web"}},
		{"many.table", []api.AttachmentStatus{old, young}, []string{"attachments", "beef/net2", "web"}},
		{"networks-none.table", nil, []string{"networks"}},
		{"networks-none.json", nil, []string{"networks", "-o", "json"}},
		{"networks-none.yaml", nil, []string{"networks", "-o", "yaml"}},
		{"none.name", nil, []string{"networks", "-o", "name"}},
		{"networks-one.table", []api.AttachmentStatus{young}, []string{"network"}},
		{"networks-one.wide", []api.AttachmentStatus{young}, []string{"net", "-o", "wide"}},
		{"networks-one.json", []api.AttachmentStatus{young}, []string{"networks", "-o", "json"}},
		{"networks-many.table", []api.AttachmentStatus{old, young, sibling}, []string{"networks"}},
		{"networks-many.wide", []api.AttachmentStatus{old, young, sibling}, []string{"networks", "-o", "wide"}},
		{"networks-many.json", []api.AttachmentStatus{old, young, sibling}, []string{"networks", "-o", "json"}},
		{"networks-many.yaml", []api.AttachmentStatus{old, young, sibling}, []string{"networks", "-o", "yaml"}},
		{"networks-many.name", []api.AttachmentStatus{old, young, sibling}, []string{"networks", "-o", "name"}},
		{"networks-one.table", []api.AttachmentStatus{old, young}, []string{"networks", "lan"}},
		{"networks-one.table", []api.AttachmentStatus{old, young}, []string{"networks", "shop/lan", "-n", "shop"}},
		{"networks-none.table", []api.AttachmentStatus{old, young}, []string{"networks", "-n", "nowhere"}},
		{"none.json", []api.AttachmentStatus{old, young}, []string{"-n", "nowhere", "-o", "json"}},
		{"none.yaml", []api.AttachmentStatus{old, young}, []string{"-n", "nowhere", "-o", "yaml"}},
	}
	for _, test := range tests {
		t.Run(strings.Join(append(test.args, test.golden), " "), func(t *testing.T) {
			t.Parallel()
			code, out, stderr := run(append([]string{"get", "--socket", agent(t, test.items...)}, test.args...)...)
			if code != ExitOK || stderr != "" {
				t.Errorf("exit code %d, stderr %q", code, stderr)
			}
			golden(t, test.golden, out)
			for line := range strings.Lines(out) {
				if text := strings.TrimSuffix(line, "\n"); strings.TrimRight(text, " ") != text {
					t.Errorf("blanks at the end of %q", line)
				}
			}
		})
	}
}

// The documents are read back as what the agent said.
func TestGetDocuments(t *testing.T) {
	t.Parallel()
	tests := map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(data []byte, into any) error { return yaml.UnmarshalStrict(data, into) },
	}
	for output, decode := range tests {
		want := api.AttachmentList{APIVersion: api.Version, Items: []api.AttachmentStatus{dated(other()), dated(web())}}
		_, out, _ := run("get", "-o", output, "--socket", agent(t, want.Items...))
		var got api.AttachmentList
		if err := decode([]byte(out), &got); err != nil {
			t.Fatalf("%s: %v: %s", output, err, out)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", output, diff)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"an unknown output", []string{"get", "-o", "xml"}, ExitUsage, "table, wide, json, yaml, name"},
		{"an unknown command", []string{"gte"}, ExitUsage, `no command "gte": did you mean get?`},
		{"a command like no other", []string{"frobnicate"}, ExitUsage, `no command "frobnicate": weirctl --help`},
		{"an unknown flag", []string{"get", "--color"}, ExitUsage, "--color"},
		{"an unknown resource", []string{"get", "pods"}, ExitUsage, "pods"},
		{"an output that is no word", []string{"get", "-o", ""}, ExitUsage, "table, wide, json, yaml, name"},
		{"a resource that is mistyped", []string{"get", "netwroks"}, ExitUsage, "did you mean networks?"},
		{"an interval of nothing", []string{"get", "--interval", "0s"}, ExitUsage, "--interval"},
		{"one namespace and all", []string{"get", "-n", "shop", "-A"}, ExitUsage, "exclude each other"},
		{"a flag without its value", []string{"get", "-n"}, ExitUsage, "-n"},
		{"a flag of get's on no command", []string{"-o", "json"}, ExitUsage, "-o"},
		{"help", []string{"--help"}, ExitOK, ""},
		{"help of a command", []string{"help", "get"}, ExitOK, ""},
		{"the version", []string{"--version"}, ExitOK, ""},
		{"nothing", nil, ExitOK, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			code, _, stderr := run(test.args...)
			if code != test.code || !strings.Contains(stderr, test.says) {
				t.Errorf("exit code %d, want %d; stderr %q", code, test.code, stderr)
			}
		})
	}
}

func TestLogLevel(t *testing.T) {
	t.Parallel()
	level := "INFO"
	socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			var wanted api.LogLevel
			if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
				t.Error(err)
			}
			level = wanted.Level.String()
		}
		fmt.Fprintf(w, `{"level":%q}`, level)
	})
	for _, test := range []struct {
		args       []string
		code       int
		out, level string
	}{
		{nil, ExitOK, "INFO\n", "INFO"},
		{[]string{"debug"}, ExitOK, "", "DEBUG"},
		{nil, ExitOK, "DEBUG\n", "DEBUG"},
		{[]string{"loud"}, ExitUsage, "", "DEBUG"},
		{[]string{"info", "warn"}, ExitUsage, "", "DEBUG"},
	} {
		code, out, diagnostics := run(append([]string{"log-level", "--socket", socket}, test.args...)...)
		if code != test.code || out != test.out || level != test.level {
			t.Errorf("%v: exit %d, %q, level %s: %s", test.args, code, out, level, diagnostics)
		}
	}
	if code, _, diagnostics := run("log-level", "--socket", "/nowhere/weir.sock"); code != ExitFailed || !strings.Contains(diagnostics, "no agent answers") {
		t.Errorf("without an agent: exit %d: %s", code, diagnostics)
	}
}

func TestHelpHasExamples(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--help"}, {"get", "--help"}} {
		code, out, stderr := run(args...)
		_, examples, found := strings.Cut(out, "Examples:\n")
		if !found || strings.Count(examples, "  weirctl get") < 2 || code != ExitOK || stderr != "" {
			t.Errorf("%v: exit code %d, stderr %q, help: %s", args, code, stderr, out)
		}
	}
}

// An agent that answers with an error is not gone round: what it holds back may
// not be what is on disk.
func TestGetFromAnAgentThatFails(t *testing.T) {
	t.Parallel()
	socket := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "too busy", http.StatusServiceUnavailable) })
	code, out, stderr := run("get", "--socket", socket, "--state-dir", t.TempDir())
	if code != ExitFailed || out != "" || !strings.HasSuffix(stderr, "too busy\n") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
}

// Without an agent the records and pins are read; what is missing makes the
// answer partial.
func TestGetWithoutAnAgent(t *testing.T) {
	t.Parallel()
	stateDir, bpfDir := t.TempDir(), t.TempDir()
	flags := []string{
		"get", "-o", "json", "--socket", filepath.Join(stateDir, "none.sock"), "--state-dir", stateDir, "--bpf-dir", bpfDir,
	}
	code, out, stderr := run(flags...)
	if code != ExitOK || strings.Count(stderr, "\n") != 1 || !strings.Contains(out, `"items": []`) || !strings.Contains(stderr, "no agent answers") {
		t.Errorf("nothing there: exit code %d, %s, %s", code, out, stderr)
	}
	records, err := state.Open(filepath.Join(stateDir, state.RecordsDir))
	if err != nil {
		t.Fatal(err)
	}
	a := web().Attachment
	record := &state.Record{ContainerID: a.ContainerID, Phase: state.Ready, Delegates: []state.Delegate{{Attachment: &a}}}
	if err := records.Save(record); err != nil {
		t.Fatal(err)
	}
	code, out, stderr = run(flags...)
	if code != ExitPartial || !strings.Contains(out, "c0ffee") || !strings.Contains(stderr, a.PinDir) {
		t.Errorf("pins missing: exit code %d, %s, %s", code, out, stderr)
	}
}

// What is there is printed, and what is not is named, with what may be meant.
func TestGetUnknownNames(t *testing.T) {
	t.Parallel()
	socket := agent(t, web(), other())
	tests := []struct {
		args []string
		says string
	}{
		{[]string{"attachments", "wbe"}, `no attachment "wbe" on this node: did you mean shop/web?`},
		{[]string{"attachments", "shop/w"}, `no attachment "shop/w" on this node: did you mean shop/web?`},
		{[]string{"attachments", "shop/wbe"}, `no attachment "shop/wbe" on this node: did you mean shop/web?`},
		{[]string{"attachments", "web", "zzzzzz"}, `no attachment "zzzzzz" on this node` + "\n"},
		{[]string{"attachments", "web", "-n", "default"}, `no attachment "web" on this node` + "\n"},
		{[]string{"networks", "lam"}, `no network "lam" on this node: did you mean shop/lan?`},
		{[]string{"networks", ""}, `no network "" on this node` + "\n"},
	}
	for _, test := range tests {
		code, out, stderr := run(append([]string{"get", "-o", "name", "--socket", socket}, test.args...)...)
		if code != ExitFailed || !strings.Contains(stderr, test.says) {
			t.Errorf("%q: exit code %d, stderr %q", test.args, code, stderr)
		}
		if want := strings.Contains(strings.Join(test.args, " "), "web zzz"); strings.Contains(out, "shop/web/net1") != want {
			t.Errorf("%q: %q", test.args, out)
		}
	}
}

// In a pipe each list follows the one before, until the reader is gone or the tool is
// interrupted.
func TestGetWatch(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"table": "\n\nNAMESPACE", "wide": "\n\nNAMESPACE", "json": "}\n{", "yaml": "\n---\n", "name": "net1\nshop",
	}
	for output, between := range tests {
		ctx, cancel := context.WithCancel(t.Context())
		w := &cancelAfter{lists: 3, cancel: cancel}
		cmd := New("weirctl", "test")
		cmd.SetArgs([]string{"get", "--watch", "--interval", "1ms", "-o", output, "--socket", agent(t, web())})
		cmd.SetOut(w)
		if err := cmd.ExecuteContext(ctx); err != nil {
			t.Errorf("%s: %v", output, err)
		}
		if n := strings.Count(w.String(), between); n != 2 {
			t.Errorf("%s: %d seams in %q", output, n, w)
		}
		code := Run([]string{"weirctl", "get", "--watch", "-o", output, "--socket", agent(t, web())}, "test", brokenPipe{}, io.Discard)
		if code != ExitFailed {
			t.Errorf("%s: exit code %d without a reader", output, code)
		}
	}
}

// cancelAfter ends a command after some lists.
type cancelAfter struct {
	strings.Builder
	lists  int
	cancel func()
}

func (w *cancelAfter) Write(data []byte) (int, error) {
	if w.lists -= strings.Count(string(data), "web"); w.lists <= 0 {
		w.cancel()
	}
	return w.Builder.Write(data)
}

func (w *cancelAfter) WriteString(text string) (int, error) { return w.Write([]byte(text)) }

// As a plugin of kubectl's it is called as it was.
func TestKubectlPlugin(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"get", "--help"}, {"migrate", "--help"}, {"gte"}, {"--version"}} {
		var out, stderr bytes.Buffer
		Run(append([]string{"/usr/local/bin/kubectl-weir"}, args...), "test", &out, &stderr)
		if text := out.String() + stderr.String(); strings.Contains(text, "weirctl") || !strings.Contains(text, "kubectl weir") {
			t.Errorf("%v: %s", args, text)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestWriteErrorsAreTold(t *testing.T) {
	t.Parallel()
	for _, output := range outputs {
		for name, items := range map[string][]api.AttachmentStatus{"none": nil, "one": {web()}} {
			var stderr bytes.Buffer
			code := Run([]string{"weirctl", "get", "-o", output, "--socket", agent(t, items...)}, "test", brokenPipe{}, &stderr)
			if code != ExitFailed || !strings.Contains(stderr.String(), "broken pipe") {
				t.Errorf("%s of %s: exit code %d, stderr %q", output, name, code, &stderr)
			}
		}
	}
}

func TestHumanBytes(t *testing.T) {
	t.Parallel()
	tests := map[uint64]string{
		0: "0B", 999: "999B", 1000: "1.0kB", 1_500_000: "1.5MB", 999_999: "1.0MB", 999_949: "999.9kB", 1_000_000_000: "1.0GB",
		1_000_000_000_000: "1.0TB", 1_000_000_000_000_000: "1.0PB", 1 << 63: "9.2EB", math.MaxUint64: "18.4EB",
	}
	for n, want := range tests {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
