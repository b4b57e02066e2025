// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/runner"
	"github.com/weir-cni/weir/segment"
	"github.com/weir-cni/weir/state"
)

var errStuck = errors.New("device or resource busy")

// guards are programs that exist in name only.
type guards struct {
	failing error // of Remove

	mu      sync.Mutex
	removed []string
}

func (g *guards) Prepare(attachment.ID, loader.Spec) {}

func (g *guards) Attach(loader.Place, attachment.ID, loader.Spec) (*loader.Guard, error) {
	return nil, errStuck
}

func (g *guards) Join(attachment.ID, segment.Place, segment.Member) error { return nil }

func (g *guards) Publish(attachment.Attachment) {}

func (g *guards) Published(string) []attachment.Attachment { return nil }

func (g *guards) Check(loader.Place, *attachment.Attachment) error { return nil }

func (g *guards) Ignore(attachment.ID) {}

func (g *guards) Detach(loader.Place, *attachment.Attachment) error { return nil }

func (g *guards) Remove(a *attachment.Attachment) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failing == nil {
		g.removed = append(g.removed, a.PinDir)
	}
	return g.failing
}

// publisher is a cluster that remembers whose network status was withdrawn.
type publisher struct {
	cluster
	withdrawn []string
	failing   error
}

func (p *publisher) SetNetworkStatus(_ context.Context, pod attachment.Pod, status []NetworkStatus) error {
	if status == nil {
		p.withdrawn = append(p.withdrawn, pod.String())
	}
	return p.failing
}

// node is a plugin with its directories, and a delegate of type x that writes
// down what it was called for.
type node struct {
	*Plugin
	guards  *guards
	cluster *publisher
	binDir  string
}

func newNode(t *testing.T) *node {
	t.Helper()
	records, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{guards: &guards{}, cluster: &publisher{}, binDir: t.TempDir()}
	n.Plugin = &Plugin{
		Networks: n.cluster, Guards: n.guards, Records: records, BPFDir: t.TempDir(), CacheDir: t.TempDir(),
		BinDir: n.binDir, Exec: &runner.Runner{}, Log: slog.New(slog.DiscardHandler),
	}
	script(t, n.binDir, `echo "$CNI_COMMAND $CNI_IFNAME" >> '`+n.binDir+`/calls'`)
	return n
}

// calls is what the delegates were called for, in order.
func (n *node) calls(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.binDir, "calls"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.TrimSpace(string(data)), "\n", ", ")
}

// sandbox writes down a sandbox with a default network, one by x and one guarded,
// whose network namespace is gone.
func (n *node) sandbox(t *testing.T, containerID string, phase state.Phase) *state.Record {
	t.Helper()
	config := json.RawMessage(`{"cniVersion":"1.0.0","name":"d","type":"x"}`)
	record := &state.Record{
		ContainerID: containerID, Phase: phase, Netns: filepath.Join(n.binDir, "gone"), Path: []string{n.binDir},
		Pod: attachment.Pod{Namespace: "pods", Name: "web"}, Created: time.Now(),
		Delegates: []state.Delegate{
			{Interface: "eth0", Network: "default", Default: true, Config: config},
			{
				Interface: "net1", Network: "pods/lan", Config: config,
				Attachment: &attachment.Attachment{ID: attachment.ID{ContainerID: containerID, Interface: "net1"}, PinDir: containerID + "-net1"},
			},
		},
	}
	if err := n.Records.Save(record); err != nil {
		t.Fatal(err)
	}
	return record
}

func (n *node) phaseOf(t *testing.T, containerID string) state.Phase {
	t.Helper()
	record, err := n.recordOf(containerID)
	if err != nil {
		t.Fatal(err)
	}
	if record == nil {
		return ""
	}
	return record.Phase
}

func requestFor(containerID string) *api.CNIRequest {
	return &api.CNIRequest{ContainerID: containerID, IfName: "eth0", Args: podArgsText, Config: []byte(`{"delegates":[{"name":"d","type":"x"}]}`)}
}

func TestDel(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.sandbox(t, "c0ffee", state.Ready)
	for range 2 { // the second finds nothing but the default network's plugin to ask
		if err := n.Del(t.Context(), requestFor("c0ffee")); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff("DEL net1, DEL eth0, DEL eth0", n.calls(t)); diff != "" {
		t.Errorf("delegates (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"c0ffee-net1"}, n.guards.removed); diff != "" {
		t.Errorf("guards (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"pods/web"}, n.cluster.withdrawn); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if phase := n.phaseOf(t, "c0ffee"); phase != "" {
		t.Errorf("the record stays, %s", phase)
	}
}

// All is tried; what failed stays on record, and a later DEL ends it.
func TestDelThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		fail, mend func(n *node, record *state.Record)
		says       []string
	}{
		{
			"a guard",
			func(n *node, _ *state.Record) { n.guards.failing = errStuck },
			func(n *node, _ *state.Record) { n.guards.failing = nil },
			[]string{"pods/web", "pods/lan", "net1", "busy"},
		},
		{
			"a plugin that is uninstalled",
			func(_ *node, record *state.Record) { record.Path = []string{"/nonexistent"} },
			func(n *node, record *state.Record) { record.Path = []string{n.binDir} },
			[]string{"pods/web", "pods/lan", "default", `"x"`},
		},
		{
			"the cluster",
			func(n *node, _ *state.Record) { n.cluster.failing = errStuck },
			func(n *node, _ *state.Record) { n.cluster.failing = nil },
			[]string{"pods/web", "network status", "busy"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			record := n.sandbox(t, "c0ffee", state.Ready)
			save := func(change func(*node, *state.Record)) {
				change(n, record)
				if err := n.Records.Save(record); err != nil {
					t.Fatal(err)
				}
			}
			save(test.fail)
			err := n.Del(t.Context(), requestFor("c0ffee"))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %s", err, want)
				}
			}
			if phase := n.phaseOf(t, "c0ffee"); phase != state.Deleting {
				t.Errorf("phase %q", phase)
			}
			save(test.mend)
			if err := n.Del(t.Context(), requestFor("c0ffee")); err != nil {
				t.Errorf("again: %v", err)
			}
			if phase := n.phaseOf(t, "c0ffee"); phase != "" {
				t.Errorf("the record stays, %s", phase)
			}
		})
	}
}

// A delegate whose configuration makes no sense any more loses its guard all the
// same.
func TestDelOfABrokenDelegate(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	record := n.sandbox(t, "c0ffee", state.Ready)
	record.Delegates[1].Config = json.RawMessage(`{"name":"lan","plugins":[]}`)
	if err := n.Records.Save(record); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), requestFor("c0ffee")); err == nil || !strings.Contains(err.Error(), "pods/lan") {
		t.Errorf("error %v", err)
	}
	if !slices.Contains(n.guards.removed, "c0ffee-net1") || n.calls(t) != "DEL eth0" {
		t.Errorf("guards %v, delegates %s", n.guards.removed, n.calls(t))
	}
}

// The status of a pod is that of its newer sandbox, which is there while the old
// one goes.
func TestDelOfAReplacedSandboxKeepsTheStatus(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.sandbox(t, "old", state.Ready)
	n.sandbox(t, "new", state.Ready)
	if err := n.Del(t.Context(), requestFor("old")); err != nil {
		t.Fatal(err)
	}
	if len(n.cluster.withdrawn) > 0 || n.phaseOf(t, "new") != state.Ready {
		t.Errorf("withdrawn from %v, the new sandbox is %q", n.cluster.withdrawn, n.phaseOf(t, "new"))
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		call func(*node, *api.CNIRequest) error
		on   func(*api.CNIRequest)
		code uint
		says string
	}{
		{"ADD for a bad container", add, func(r *api.CNIRequest) { r.ContainerID = "../x" }, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		{"DEL for a bad container", del, func(r *api.CNIRequest) { r.ContainerID = "" }, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		{"CHECK for a bad container", check, func(r *api.CNIRequest) { r.ContainerID = "a/b" }, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		{"ADD for a bad pod", add, func(r *api.CNIRequest) { r.Args = "K8S_POD_NAME" }, types.ErrInvalidEnvironmentVariables, "CNI_ARGS"},
		{"ADD without a namespace", add, func(*api.CNIRequest) {}, types.ErrInvalidEnvironmentVariables, "CNI_NETNS"},
		{"ADD to a namespace that is gone", add, func(r *api.CNIRequest) { r.Netns = "/nonexistent/n" }, types.ErrInvalidNetNS, "/nonexistent/n"},
		{"ADD twice", add, func(r *api.CNIRequest) { r.ContainerID = "ready" }, types.ErrInvalidEnvironmentVariables, "DEL"},
		{"CHECK of an unknown container", check, func(*api.CNIRequest) {}, types.ErrUnknownContainer, "c0ffee"},
		{"CHECK of an unfinished container", check, func(r *api.CNIRequest) { r.ContainerID = "adding" }, types.ErrUnknownContainer, "adding"},
		{"CHECK without a namespace", check, func(r *api.CNIRequest) { r.ContainerID = "ready" }, types.ErrInvalidEnvironmentVariables, "CNI_NETNS"},
		{"GC of garbage", gc, func(r *api.CNIRequest) { r.Config = []byte("{") }, types.ErrDecodingFailure, "configuration"},
		{"GC of a number", gc, func(r *api.CNIRequest) { r.Config = []byte(`{"cni.dev/valid-attachments":7}`) }, types.ErrDecodingFailure, "valid-attachments"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.sandbox(t, "ready", state.Ready)
			n.sandbox(t, "adding", state.Adding)
			req := requestFor("c0ffee")
			test.on(req)
			err := test.call(n, req)
			if err == nil || Error(err).Code != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want code %d and %q", err, test.code, test.says)
			}
			if n.calls(t) != "" || n.phaseOf(t, "ready") != state.Ready || n.phaseOf(t, "adding") != state.Adding || n.phaseOf(t, "c0ffee") != "" {
				t.Errorf("a request that was refused has changed something: %s", n.calls(t))
			}
		})
	}
}

func add(n *node, req *api.CNIRequest) error {
	_, err := n.Add(context.Background(), req)
	return err
}

func del(n *node, req *api.CNIRequest) error { return n.Del(context.Background(), req) }

func check(n *node, req *api.CNIRequest) error { return n.Check(context.Background(), req) }

func gc(n *node, req *api.CNIRequest) error {
	return n.GC(context.Background(), req, func(string) func() { return func() {} })
}

// What an ADD that was cut off has left is cleared before the next is looked at.
func TestAddClearsWhatIsUnfinished(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.sandbox(t, "c0ffee", state.Adding)
	req := requestFor("c0ffee")
	req.Netns = "/nonexistent/n"
	if _, err := n.Add(t.Context(), req); err == nil {
		t.Fatal("no error")
	}
	if phase, calls := n.phaseOf(t, "c0ffee"), n.calls(t); phase != "" || calls != "DEL net1, DEL eth0" {
		t.Errorf("phase %q, delegates %s", phase, calls)
	}
}

func TestGC(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, id := range []string{"valid", "stale", "unfinished"} {
		n.sandbox(t, id, state.Ready)
	}
	n.sandbox(t, "replaced", state.Ready)
	req := requestFor("")
	req.Config = []byte(`{"cni.dev/valid-attachments":[{"containerID":"valid","ifname":"eth0"}]}`)
	var locked []string
	lock := func(id string) func() {
		locked = append(locked, id)
		if id == "replaced" {
			n.sandbox(t, id, state.Ready)
		}
		return func() { locked = append(locked, "free "+id) }
	}
	if err := n.GC(t.Context(), req, lock); err != nil {
		t.Fatal(err)
	}
	left := map[string]state.Phase{}
	for _, id := range []string{"valid", "stale", "unfinished", "replaced"} {
		left[id] = n.phaseOf(t, id)
	}
	want := map[string]state.Phase{"valid": state.Ready, "stale": "", "unfinished": "", "replaced": state.Ready}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(locked) != 6 || slices.Contains(locked, "valid") {
		t.Errorf("locked %v", locked)
	}
	for i := 0; i+1 < len(locked); i += 2 {
		if locked[i+1] != "free "+locked[i] {
			t.Errorf("locked %v", locked)
		}
	}
}

// One sandbox that cannot be taken away does not keep the others.
func TestGCGoesOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	broken := n.sandbox(t, "a-broken", state.Ready)
	broken.Path = []string{"/nonexistent"}
	if err := n.Records.Save(broken); err != nil {
		t.Fatal(err)
	}
	n.sandbox(t, "b-stale", state.Ready)
	req := requestFor("")
	req.Config = []byte(`{}`)
	if err := gc(n, req); err == nil || !strings.Contains(err.Error(), "pods/web") {
		t.Errorf("error %v", err)
	}
	if n.phaseOf(t, "a-broken") != state.Deleting || n.phaseOf(t, "b-stale") != "" {
		t.Errorf("phases %q, %q", n.phaseOf(t, "a-broken"), n.phaseOf(t, "b-stale"))
	}
}

// Every delegate but the default network's gets a directory of its own.
func TestReserve(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	ids := []string{"0123456789abcdef", "0123456789abfedc"} // the same first 12 characters
	pins := map[string]bool{}
	for _, id := range ids {
		record := &state.Record{
			ContainerID: id, Netns: "/n", Pod: attachment.Pod{Namespace: "pods", Name: "web"}, Created: time.Now(),
			Delegates: []state.Delegate{{Interface: "eth0", Default: true}, {Interface: "net1", Network: "pods/lan"}, {Interface: "net2", Network: "pods/lan"}},
		}
		if err := n.reserve(record); err != nil {
			t.Fatal(err)
		}
		if record.Delegates[0].Attachment != nil {
			t.Error("the default network has an attachment")
		}
		for _, d := range record.Delegates[1:] {
			a := d.Attachment
			if a == nil || a.ContainerID != id || a.Interface != d.Interface || a.Network != d.Network || a.Pod.Name != "web" || a.Netns != "/n" {
				t.Fatalf("%s: %+v", d.Interface, a)
			}
			pins[a.PinDir] = true
			if _, err := os.Stat(filepath.Join(n.BPFDir, a.PinDir)); err != nil {
				t.Error(err)
			}
		}
	}
	if len(pins) != 4 {
		t.Errorf("pins %v are shared", pins)
	}
}
