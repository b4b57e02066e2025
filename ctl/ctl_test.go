// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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
	// cobra takes no arguments at all, nil, for those of the process.
	code = Run(append([]string{}, args...), "test", &out, &err)
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
		{"none.json", []api.AttachmentStatus{old, young}, []string{"-n", "nowhere", "-o", "json"}},
		{"none.yaml", []api.AttachmentStatus{old, young}, []string{"-n", "nowhere", "-o", "yaml"}},
	}
	for _, test := range tests {
		t.Run(strings.Join(append(test.args, test.golden), " "), func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(filepath.Join("testdata", test.golden))
			if err != nil {
				t.Fatal(err)
			}
			code, out, stderr := run(append([]string{"get", "--socket", agent(t, test.items...)}, test.args...)...)
			if code != ExitOK || stderr != "" {
				t.Errorf("exit code %d, stderr %q", code, stderr)
			}
			if diff := cmp.Diff(string(want), out); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
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
		{"an unknown output", []string{"get", "-o", "xml"}, ExitUsage, "table, wide, json, yaml"},
		{"an unknown command", []string{"gte"}, ExitUsage, "gte"},
		{"an unknown flag", []string{"get", "--color"}, ExitUsage, "--color"},
		{"an unknown resource", []string{"get", "pods"}, ExitUsage, "pods"},
		{"an output that is no word", []string{"get", "-o", ""}, ExitUsage, "table, wide, json, yaml"},
		{"two resources", []string{"get", "attachments", "attachments"}, ExitUsage, "at most 1"},
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

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestWriteErrorsAreTold(t *testing.T) {
	t.Parallel()
	for _, output := range outputs {
		for name, items := range map[string][]api.AttachmentStatus{"none": nil, "one": {web()}} {
			var stderr bytes.Buffer
			code := Run([]string{"get", "-o", output, "--socket", agent(t, items...)}, "test", brokenPipe{}, &stderr)
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
