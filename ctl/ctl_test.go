// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
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
			Created:   time.Now().Add(-90 * time.Minute),
		},
		Hook:     "tcx",
		Receive:  api.Traffic{Packets: 12, Bytes: 999},
		Transmit: api.Traffic{Packets: 3, Bytes: 1500000},
		Dropped:  []api.Drop{{Direction: "egress", Reason: "spoofed_ipv4", Packets: 4, Bytes: 392}},
	}
}

// other has no address, no guard and no pod, and two reasons.
func other() api.AttachmentStatus {
	return api.AttachmentStatus{
		Attachment: attachment.Attachment{
			ID: attachment.ID{ContainerID: "beef", Interface: "net2"}, Network: "default/san", Created: time.Now().Add(-time.Hour),
		},
		Dropped: []api.Drop{{Reason: "spoofed_mac", Packets: 1}, {Reason: "malformed", Packets: 2}},
	}
}

// agent serves a list on a socket.
func agent(t *testing.T, items ...api.AttachmentStatus) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "weir.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(&api.AttachmentList{APIVersion: api.Version, Items: append([]api.AttachmentStatus{}, items...)})
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

func run(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Run(args, "test", &out, &err)
	return code, out.String(), err.String()
}

func TestGetTables(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		items []api.AttachmentStatus
		args  []string
		want  string
	}{
		{"none", nil, nil, "NAMESPACE  POD  IF  NETWORK  TYPE  IP  RX  TX  DROPS  AGE\n"},
		{"one", []api.AttachmentStatus{web()}, nil, "" +
			"NAMESPACE  POD  IF    NETWORK   TYPE     IP                      RX       TX       DROPS           AGE\n" +
			"shop       web  net1  shop/lan  macvlan  192.0.2.8,2001:db8::8  12/999B  3/1.5MB  4 spoofed_ipv4  90m\n"},
		{"two", []api.AttachmentStatus{other(), web()}, nil, "" +
			"NAMESPACE  POD  IF    NETWORK      TYPE     IP                      RX       TX       DROPS           AGE\n" +
			"-          -    net2  default/san  -        -                       0/0B     0/0B     3               60m\n" +
			"shop       web  net1  shop/lan     macvlan  192.0.2.8,2001:db8::8  12/999B  3/1.5MB  4 spoofed_ipv4  90m\n"},
		{"of a namespace", []api.AttachmentStatus{other(), web()}, []string{"-n", "nowhere"},
			"NAMESPACE  POD  IF  NETWORK  TYPE  IP  RX  TX  DROPS  AGE\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			code, out, stderr := run(append([]string{"get", "--socket", agent(t, test.items...)}, test.args...)...)
			if code != ExitOK || stderr != "" {
				t.Errorf("exit code %d, stderr %q", code, stderr)
			}
			squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
			if diff := cmp.Diff(squeeze(test.want), squeeze(out)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for line := range strings.Lines(out) {
				if strings.TrimRight(line, " \n") != strings.TrimSuffix(line, "\n") {
					t.Errorf("blanks at the end of %q", line)
				}
			}
		})
	}
}

func TestGetWide(t *testing.T) {
	t.Parallel()
	_, out, _ := run("get", "-o", "wide", "--socket", agent(t, web()))
	for _, want := range []string{"MASTER", "eth1", "MODE", "bridge", "MAC", "02:00:00:00:00:01", "1500", "HOOK", "tcx", "c0ffee"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
}

func TestGetDocuments(t *testing.T) {
	t.Parallel()
	tests := map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(data []byte, into any) error { return yaml.Unmarshal(data, into) },
	}
	for output, decode := range tests {
		for _, items := range [][]api.AttachmentStatus{{}, {web()}} {
			code, out, _ := run("get", "-o", output, "--socket", agent(t, items...))
			var list api.AttachmentList
			if err := decode([]byte(out), &list); err != nil || code != ExitOK {
				t.Fatalf("%s: exit code %d, %v: %s", output, code, err, out)
			}
			if list.APIVersion != api.Version || list.Items == nil || len(list.Items) != len(items) {
				t.Errorf("%s of %d items: %s", output, len(items), out)
			}
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
		{"help", []string{"--help"}, ExitOK, ""},
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

func TestHelpHasExamples(t *testing.T) {
	t.Parallel()
	_, out, _ := run("get", "--help")
	if strings.Count(out, "  weirctl get") < 2 {
		t.Errorf("help: %s", out)
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
	if code != ExitOK || !strings.Contains(out, `"items": []`) || !strings.Contains(stderr, "no agent answers") {
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
		list := &api.AttachmentList{Items: []api.AttachmentStatus{web()}}
		if err := render(brokenPipe{}, list, output); err == nil {
			t.Errorf("%s: no error", output)
		}
	}
}

func TestHumanBytes(t *testing.T) {
	t.Parallel()
	tests := map[uint64]string{0: "0B", 999: "999B", 1000: "1.0kB", 1_500_000: "1.5MB", 1 << 63: "9.2EB"}
	for n, want := range tests {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
