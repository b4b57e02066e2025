// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/state"
)

func TestListNamesEachReasonThatDropped(t *testing.T) {
	t.Parallel()
	var counters bpf.Counters
	counters[bpf.Ingress][bpf.Allowed] = bpf.Count{Packets: 1, Bytes: 60}
	counters[bpf.Egress][bpf.Allowed] = bpf.Count{Packets: 2, Bytes: 120}
	var want []api.Drop
	for v := range bpf.Verdicts() {
		if v == bpf.Allowed {
			continue
		}
		counters[bpf.Egress][v] = bpf.Count{Packets: uint64(v), Bytes: 60}
		want = append(want, api.Drop{Direction: "egress", Reason: v.Reason(), Packets: uint64(v), Bytes: 60})
	}
	list := List([]Attachment{{Guard: &Guard{Hook: loader.TCX, Counters: counters}}, {}})
	if list.APIVersion != api.Version || len(list.Items) != 2 {
		t.Fatalf("%+v", list)
	}
	guarded, bare := list.Items[0], list.Items[1]
	if diff := cmp.Diff(want, guarded.Dropped); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
	if guarded.Hook != "tcx" || guarded.Receive != (api.Traffic{Packets: 1, Bytes: 60}) || guarded.Transmit != (api.Traffic{Packets: 2, Bytes: 120}) {
		t.Errorf("%+v", guarded)
	}
	if bare.Hook != "" || bare.Dropped == nil || len(bare.Dropped) != 0 {
		t.Errorf("without a guard: %+v", bare)
	}
}

// serve answers on a socket.
func serve(t *testing.T, answer http.HandlerFunc) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "weir.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

func TestFromAgent(t *testing.T) {
	t.Parallel()
	good := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != api.AttachmentsPath {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"apiVersion":"weir/v1","items":[{"containerID":"a","interface":"net1"}]}`))
	})
	list, err := FromAgent(t.Context(), good)
	if err != nil || len(list.Items) != 1 || list.Items[0].Interface != "net1" {
		t.Errorf("%+v, %v", list, err)
	}
	tests := []struct {
		name   string
		socket string
		is     error
		says   string
	}{
		{"nobody", filepath.Join(t.TempDir(), "none.sock"), ErrNoAgent, "none.sock"},
		{"an error", serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "too busy", http.StatusServiceUnavailable) }), nil, "too busy"},
		{"not JSON", serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }), nil, "reading the agent's answer"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := FromAgent(t.Context(), test.socket)
			if err == nil || !strings.Contains(err.Error(), test.says) || errors.Is(err, ErrNoAgent) != (test.is != nil) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestFromPinsTellsWhatIsMissing(t *testing.T) {
	t.Parallel()
	recordsDir, bpfDir := t.TempDir(), t.TempDir()
	records, err := state.Open(recordsDir)
	if err != nil {
		t.Fatal(err)
	}
	attach := func(container, pinDir string, phase state.Phase) {
		a := &attachment.Attachment{ID: attachment.ID{ContainerID: container, Interface: "net1"}, PinDir: pinDir}
		record := &state.Record{
			ContainerID: container, Phase: phase,
			Delegates: []state.Delegate{{Interface: "eth0", Default: true}, {Interface: "net1", Attachment: a}},
		}
		if err := records.Save(record); err != nil {
			t.Fatal(err)
		}
	}
	attach("b-lost", "lost-net1", state.Ready)
	attach("a-bare", "", state.Ready)
	attach("c-adding", "adding-net1", state.Adding)
	list, err := FromPins(recordsDir, bpfDir)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "lost-net1") {
		t.Errorf("error %v", err)
	}
	var names []string
	for _, item := range list.Items {
		names = append(names, item.ContainerID)
	}
	if diff := cmp.Diff([]string{"a-bare", "b-lost"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
