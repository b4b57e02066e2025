// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"encoding/hex"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/tests/collector"
)

// collectorAddress is in the node's namespace.
const collectorAddress = "127.0.0.1:4318"

// newTracedNode makes a node whose agent sends its spans to the collector's address.
func newTracedNode(t *testing.T) *Node {
	t.Helper()
	n := newIdleNode(t)
	n.environment = []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + collectorAddress}
	n.Start()
	return n
}

func (n *Node) listenForSpans() net.Listener {
	n.tb.Helper()
	var listener net.Listener
	n.machine.Do(func() (err error) {
		if listener, err = net.Listen("tcp", collectorAddress); err != nil {
			n.tb.Fatal(err)
		}
		return nil
	})
	return listener
}

// An ADD and a DEL are a span each, with one below for each part and step; the last are
// sent when the agent ends.
func TestNetnsRequestsAreTraced(t *testing.T) {
	n := newTracedNode(t)
	sent := collector.Serve(t, n.listenForSpans())
	n.Network("lan", listOf("1.0.0", lanObject()))
	p := n.Pod("web", "lan")
	n.mustAdd(p)
	if _, refused := n.Add(p); refused == nil {
		t.Fatal("a second ADD was taken")
	}
	n.mustCheck(p)
	n.mustDel(p)
	n.Stop()
	roots, children := treeOf(t, sent.Spans())
	if len(roots) != 3 {
		t.Fatalf("%d requests were traced, want 3", len(roots))
	}
	add, refused, del := roots[0], roots[1], roots[2]
	checkPaths(t, add, children, []string{"plan", "validate", "begin",
		"attach eth0", "attach eth0/create", "attach eth0/guard", "attach eth0/assign", "attach eth0/allow", "attach eth0/configure",
		"attach eth0/execute", "attach eth0/allow", "attach eth0/remember",
		"attach net1", "attach net1/create", "attach net1/guard", "attach net1/assign", "attach net1/allow", "attach net1/configure",
		"attach net1/execute", "attach net1/allow", "attach net1/remember", "finish"})
	checkPaths(t, del, children, []string{"detach net1", "detach net1/release", "detach net1/delete", "detach net1/unguard",
		"detach eth0", "detach eth0/release", "detach eth0/delete", "detach eth0/unguard", "forget"})
	for i, root := range []collector.Span{add, refused, del} {
		if want := []string{"CNI ADD", "CNI ADD", "CNI DEL"}[i]; root.Name != want || root.Kind != tracepb.Span_SPAN_KIND_SERVER {
			t.Errorf("span %d is %s of kind %s, want %s of a server", i, root.Name, root.Kind, want)
		}
		want := map[string]string{"container.id": p.ID, "network.interface.name": "eth0", "k8s.namespace.name": n.namespace, "k8s.pod.name": "web", "k8s.pod.uid": ""}
		if i == 1 {
			want["error.type"] = "4"
		}
		if diff := cmp.Diff(want, root.Attributes); diff != "" {
			t.Errorf("the attributes of span %d (-want +got):\n%s", i, diff)
		}
		if id := hex.EncodeToString(root.TraceId); !bytes.Contains(n.readLog(), []byte("trace_id="+id)) {
			t.Errorf("trace %s is not in the log", id)
		}
	}
	if s := refused.Status; s.Code != tracepb.Status_STATUS_CODE_ERROR || len(refused.Events) != 1 || refused.Events[0].Name != "exception" {
		t.Errorf("the refused ADD has the status %v and the events %v", s, refused.Events)
	}
	if add.Status.Code == tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("the ADD has the status %v", add.Status)
	}
}

// The span of the step that failed bears the error, and what was undone is seen.
func TestNetnsAFailedStepIsTraced(t *testing.T) {
	n := newTracedNode(t)
	sent := collector.Serve(t, n.listenForSpans())
	n.Network("lan", listOf("1.0.0", object{"type": "macvlan", "master": "eth1", "mode": "passthru"}))
	p := n.Pod("web", "lan,lan")
	if _, failure := n.Add(p); failure == nil {
		t.Fatal("ADD succeeded")
	}
	n.Stop()
	_, children := treeOf(t, sent.Spans())
	var failed []string
	names := map[string]bool{}
	for _, below := range children {
		for _, s := range below {
			names[s.Name] = true
			if s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
				failed = append(failed, s.Name+" "+s.Attributes["network.interface.name"]+" "+s.Attributes["weir.network.name"])
			}
		}
	}
	slices.Sort(failed)
	network := n.namespace + "/lan"
	if diff := cmp.Diff([]string{"attach net2 " + network, "create net2 " + network}, failed); diff != "" {
		t.Errorf("the spans with errors (-want +got):\n%s", diff)
	}
	if !names["undo"] || names["finish"] {
		t.Errorf("the spans are %q: want undo, and no finish", slices.Sorted(maps.Keys(names)))
	}
}

// A collector that is absent, and one that never answers, costs no request anything and
// the agent's end little.
func TestNetnsCollectorsThatDoNotAnswer(t *testing.T) {
	for name, listens := range map[string]bool{"absent": false, "silent": true} {
		t.Run(name, func(t *testing.T) {
			n := newTracedNode(t)
			if listens {
				listener := n.listenForSpans()
				defer listener.Close()
			}
			n.Network("lan", listOf("1.0.0", lanObject()))
			p := n.Pod("web", "lan")
			for range 5 {
				began := time.Now()
				n.mustAdd(p)
				n.mustDel(p)
				// Far below what a client of OTLP waits for, ten seconds.
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("ADD and DEL took %s", took)
				}
			}
			began := time.Now()
			n.Stop()
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("the agent took %s to end", took)
			}
		})
	}
}

// treeOf are the spans without a parent, in the order in which they began, and those below
// each span.
func treeOf(t *testing.T, spans []collector.Span) (roots []collector.Span, children map[string][]collector.Span) {
	t.Helper()
	slices.SortFunc(spans, func(a, b collector.Span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
	children = map[string][]collector.Span{}
	for _, s := range spans {
		if len(s.ParentSpanId) == 0 {
			roots = append(roots, s)
			continue
		}
		children[string(s.ParentSpanId)] = append(children[string(s.ParentSpanId)], s)
	}
	return roots, children
}

// checkPaths compares what is below a span, in order, with the paths of names; an
// attachment's has its interface.
func checkPaths(t *testing.T, root collector.Span, children map[string][]collector.Span, want []string) {
	t.Helper()
	var got []string
	var walk func(prefix string, of collector.Span)
	walk = func(prefix string, of collector.Span) {
		for _, s := range children[string(of.SpanId)] {
			path := prefix + s.Name
			if s.Name == "attach" || s.Name == "detach" {
				path += " " + s.Attributes["network.interface.name"]
			}
			if !bytes.Equal(s.TraceId, root.TraceId) || s.StartTimeUnixNano < of.StartTimeUnixNano || s.EndTimeUnixNano > of.EndTimeUnixNano {
				t.Errorf("%s is not within %s", path, of.Name)
			}
			got = append(got, path)
			walk(path+"/", s)
		}
	}
	walk("", root)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the spans of %s (-want +got):\n%s", root.Name, diff)
	}
}
