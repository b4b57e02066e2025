// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-cni/weir/tests/cluster"
)

// An API server that takes five seconds for everything makes pods slow, no more.
func TestE2EAPIServerSlow(t *testing.T) {
	w := installed(t)
	ns := w.namespace("api-slow")
	n := w.Nodes[0]
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.slow(5 * time.Second)
	w.pod(ns, "web", n, "lan")
	w.AwaitPod(ns, "web")
	w.checkInterfaces(ns, "web", "eth0", "net1")
	w.awaitEvent(ns, "web", "AddedInterface: Add net1 [")
	w.remove(ns, "web")
	w.awaitNothingLeft(n)
}

func (w *weir) slow(d time.Duration) {
	w.t.Helper()
	if err := w.API.Delay(d); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.pass)
}

func (w *weir) pass() {
	if err := w.API.Pass(); err != nil {
		w.t.Error(err)
	}
	w.AwaitReady()
}

// Without the API server a sandbox goes, none comes, and those that are there are
// guarded and counted.
func TestE2EAPIServerAway(t *testing.T) {
	w := installed(t)
	ns := w.namespace("api-away")
	n := w.Nodes[0]
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.network(ns, "fixed", object{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth1", "ipam": object{"type": "static"}})
	w.pod(ns, "stays", n, `[{"name":"fixed","ips":["192.168.122.32/24"]}]`)
	w.pod(ns, "dies", n, "lan")
	w.AwaitPod(ns, "stays")
	w.AwaitPod(ns, "dies")
	before := w.received(n)
	if err := w.API.Refuse(); err != nil {
		t.Fatal(err)
	}
	defer w.pass()

	sandbox := w.killSandbox(n, ns, "dies")
	w.Await("the DEL of the dead sandbox", time.Minute, func(context.Context) error {
		if out := w.agentLog(n); !logged(out, "request done", "command=DEL", sandbox) {
			return errors.New("it is not in the agent's log")
		}
		return nil
	})
	w.Await("an ADD that says what is away", time.Minute, func(context.Context) error {
		if out := w.agentLog(n); !logged(out, "request failed", "command=ADD", "dies", "Kubernetes API") {
			return errors.New("it is not in the agent's log")
		}
		return nil
	})
	if got := w.Outside.Ping(t.Context(), "192.168.122.32", 5); got != 5 {
		t.Errorf("the outside host has %d of 5 answers", got)
	}
	if after := w.received(n); after < before+5 {
		t.Errorf("%d packets were counted before, %d after", before, after)
	}
	w.pass()
	w.Await("the pod to be whole again", 2*time.Minute, func(context.Context) error {
		out, err := w.Exec(ns, "dies", "ls", "/sys/class/net")
		if err == nil && !strings.Contains(out, "net1") {
			err = fmt.Errorf("it has %s", out)
		}
		return err
	})
	w.remove(ns, "dies")
	w.remove(ns, "stays")
	w.awaitNothingLeft(n)
}

// killSandbox kills what keeps a pod's namespace, and returns the container's ID.
func (w *weir) killSandbox(n *cluster.Node, namespace, pod string) string {
	w.t.Helper()
	out := n.MustRun("ctr", "-n", "k8s.io", "containers", "ls", "-q", fmt.Sprintf(
		`labels."io.kubernetes.pod.namespace"==%s,labels."io.kubernetes.pod.name"==%s,labels."io.cri-containerd.kind"==sandbox`, namespace, pod))
	id := strings.TrimSpace(out)
	if len(strings.Fields(id)) != 1 {
		w.t.Fatalf("the sandboxes of %s are %q", pod, id)
	}
	n.MustRun("ctr", "-n", "k8s.io", "tasks", "kill", "-s", "KILL", id)
	return id
}

// agentLog is the agent's log on a node, from the node's own disk: the API server may
// be away.
func (w *weir) agentLog(n *cluster.Node) string {
	w.t.Helper()
	return n.MustRun("sh", "-c", "cat /var/log/pods/weir-system_weir-*/agent/*.log")
}

// logged tells that one line has every one of the texts.
func logged(log string, texts ...string) bool {
	for line := range strings.Lines(log) {
		if containsAll(line, texts) {
			return true
		}
	}
	return false
}
