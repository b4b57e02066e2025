// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/state"
)

func TestListNamesEachReasonThatDropped(t *testing.T) {
	t.Parallel()
	var counters bpf.Counters
	counters.Verdicts[bpf.Ingress][bpf.Allowed] = bpf.Count{Packets: 1, Bytes: 60}
	counters.Verdicts[bpf.Egress][bpf.Allowed] = bpf.Count{Packets: 2, Bytes: 120}
	var want []api.Drop
	for v := range bpf.Verdicts() {
		if v == bpf.Allowed {
			continue
		}
		counters.Verdicts[bpf.Egress][v] = bpf.Count{Packets: uint64(v), Bytes: 60}
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

func TestListKeepsTheOrder(t *testing.T) {
	t.Parallel()
	var counters bpf.Counters
	for v := range bpf.Verdicts() {
		counters.Verdicts[bpf.Ingress][v] = bpf.Count{Packets: 1, Bytes: 60}
		counters.Verdicts[bpf.Egress][v] = bpf.Count{Packets: 1, Bytes: 60}
	}
	in := []Attachment{{Guard: &Guard{Counters: counters}}, {}, {}}
	for i, id := range []string{"c", "a", "b"} {
		in[i].ContainerID = id
	}
	list := List(in)
	var ids []string
	for _, item := range list.Items {
		ids = append(ids, item.ContainerID)
	}
	if diff := cmp.Diff([]string{"c", "a", "b"}, ids); diff != "" {
		t.Errorf("items (-want +got):\n%s", diff)
	}
	drops := list.Items[0].Dropped
	inOrder := slices.IsSortedFunc(drops, func(a, b api.Drop) int { return strings.Compare(b.Direction, a.Direction) })
	if !inOrder || drops[0].Direction != "ingress" {
		t.Errorf("not ingress before egress: %+v", drops)
	}
}

func TestListOfNothing(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(&api.AttachmentList{APIVersion: api.Version, Items: []api.AttachmentStatus{}}, List(nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A guard whose counters cannot be read is told of, and the item shows none.
func TestListOfAGuardThatCannotBeRead(t *testing.T) {
	t.Parallel()
	item := List([]Attachment{{Guard: &Guard{Hook: loader.Clsact, Err: fs.ErrNotExist}}}).Items[0]
	if item.Hook != "clsact" || item.Receive != (api.Traffic{}) || item.Transmit != (api.Traffic{}) || len(item.Dropped) != 0 {
		t.Errorf("%+v", item)
	}
}

func TestByPod(t *testing.T) {
	t.Parallel()
	at := func(namespace, pod, container, ifname string) Attachment {
		return Attachment{Attachment: attachment.Attachment{
			ID: attachment.ID{ContainerID: container, Interface: ifname}, Pod: attachment.Pod{Namespace: namespace, Name: pod},
		}}
	}
	inOrder := []Attachment{
		at("", "", "a", "net1"), at("", "", "b", "net1"),
		at("pods", "db", "c", "net1"),
		at("pods", "web", "a", "net1"), at("pods", "web", "a", "net2"), at("pods", "web", "b", "net1"),
		at("shop", "db", "a", "net1"),
	}
	rapid.Check(t, func(t *rapid.T) {
		shuffled := rapid.Permutation(inOrder).Draw(t, "attachments")
		slices.SortFunc(shuffled, ByPod)
		if diff := cmp.Diff(inOrder, shuffled); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
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

// abandoned is a socket file whose listener was killed.
func abandoned(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "abandoned.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return socket
}

func regular(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "regular.sock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An agent that hangs is waited for no longer than the caller wants.
func TestFromAgentThatHangs(t *testing.T) {
	t.Parallel()
	socket := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := FromAgent(ctx, socket); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
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
		{"a socket that its agent left", abandoned(t), ErrNoAgent, "abandoned.sock"},
		{"a file", regular(t), ErrNoAgent, "regular.sock"},
		{"an answer of a number", serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("7")) }), nil, "reading the agent's answer"},
		{"an answer that is cut off", serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"apiVersion":"weir/v1","items":[`))
		}), nil, "reading the agent's answer"},
		{"another server", serve(t, http.NotFound), nil, "404"},
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
			if _, err := Version(t.Context(), test.socket); err == nil || !strings.Contains(err.Error(), test.says) || errors.Is(err, ErrNoAgent) != (test.is != nil) {
				t.Errorf("the version: error %v", err)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	good := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.URL.Path) })
	if text, err := Metrics(t.Context(), good); err != nil || string(text) != api.MetricsPath+"\n" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := Metrics(t.Context(), serve(t, http.NotFound)); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("of another server: %v", err)
	}
	if _, err := Metrics(t.Context(), abandoned(t)); !errors.Is(err, ErrNoAgent) {
		t.Errorf("of no agent: %v", err)
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
	// A record that cannot be read takes no other with it.
	damaged := filepath.Join(recordsDir, "d-damaged.json")
	if err := os.WriteFile(damaged, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := FromPins(recordsDir, bpfDir)
	if !errors.Is(err, state.ErrCorrupt) || !strings.Contains(err.Error(), damaged) || !strings.Contains(err.Error(), "lost-net1") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(list, again); diff != "" {
		t.Errorf("(-before +with a damaged record):\n%s", diff)
	}
}

func TestFromPinsOfNothing(t *testing.T) {
	t.Parallel()
	list, err := FromPins(filepath.Join(t.TempDir(), "none"), t.TempDir())
	if err != nil || len(list.Items) != 0 || list.Items == nil {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := FromPins(regular(t), t.TempDir()); err == nil {
		t.Error("a file was taken for a directory of records")
	}
}
