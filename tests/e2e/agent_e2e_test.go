// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-cni/weir/tests/cluster"
)

// received is what net1 of the pod stays has received, as weirctl says in the agent's pod.
func (w *weir) received(n *cluster.Node) uint64 {
	w.t.Helper()
	var list struct {
		Items []struct {
			Pod       struct{ Name string }
			Interface string
			Receive   struct{ Packets uint64 }
		}
	}
	if err := json.Unmarshal([]byte(w.ctl(n, "get", "-o", "json")), &list); err != nil {
		w.t.Fatal(err)
	}
	for _, item := range list.Items {
		if item.Pod.Name == "stays" && item.Interface == "net1" {
			return item.Receive.Packets
		}
	}
	w.t.Fatal("weirctl does not know net1 of the pod stays")
	return 0
}

// What becomes of agents is nothing to a pod that runs, and a pod that comes meanwhile
// has its networks or waits for them.
func TestE2EAgentsComeAndGo(t *testing.T) {
	w := installed(t)
	ns := w.namespace("agents")
	n := w.Nodes[0]
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.network(ns, "fixed", object{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth1", "ipam": object{"type": "static"}})
	w.pod(ns, "stays", n, `[{"name":"fixed","ips":["192.168.122.30/24"]}]`)
	w.AwaitPod(ns, "stays")
	events := []struct {
		name string
		do   func()
	}{
		{"killed", func() { n.MustRun("sh", "-c", "pkill -9 -x weir-agent") }},
		{"upgraded by rollout", func() {
			w.MustKubectl("-n", weirNamespace, "rollout", "restart", "daemonset/weir")
		}},
		{"deleted", func() { w.MustKubectl("-n", weirNamespace, "delete", "pod", w.agent(n).Name, "--wait=false") }},
		{"evicted", func() {
			eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: weirNamespace, Name: w.agent(n).Name}}
			if err := w.Client().PolicyV1().Evictions(weirNamespace).Evict(t.Context(), eviction); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for i, event := range events {
		t.Run(event.name, func(t *testing.T) {
			w := &weir{w.Cluster, t}
			before := w.received(n)
			answers := make(chan int, 1)
			go func() { answers <- w.Outside.Ping(context.Background(), "192.168.122.30", 10) }()
			event.do()
			name := fmt.Sprintf("comes-%d", i)
			w.pod(ns, name, n, "lan")
			w.AwaitPod(ns, name)
			w.checkInterfaces(ns, name, "eth0", "net1")
			w.remove(ns, name)
			if got := <-answers; got != 10 {
				t.Errorf("%d of 10 pings were answered meanwhile", got)
			}
			w.ready()
			if after := w.received(n); after < before+10 {
				t.Errorf("%d packets were counted before, %d after", before, after)
			}
		})
	}
}

// While there is no agent at all, pods wait, and those that are deleted wait too; with
// the next agent both come to their end.
func TestE2EAgentAbsent(t *testing.T) {
	w := installed(t)
	ns := w.namespace("absent")
	n := w.Nodes[0]
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.pod(ns, "goes", n, "lan")
	w.AwaitPod(ns, "goes")
	const nowhere = `{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":"true"}}}}}`
	w.MustKubectl("-n", weirNamespace, "patch", "daemonset", "weir", "-p", nowhere)
	w.Await("the agents to be gone", time.Minute, func(context.Context) error {
		if out := w.MustKubectl("get", "pods", "-n", weirNamespace, "-o", "name"); out != "" {
			return fmt.Errorf("there is %s", out)
		}
		return nil
	})
	w.MustKubectl("delete", "pod", "-n", ns, "goes", "--wait=false")
	w.pod(ns, "comes", n, "lan")
	w.Await("an event that says why the pod waits", time.Minute, func(context.Context) error {
		out := w.MustKubectl("get", "events", "-n", ns, "--field-selector", "involvedObject.name=comes")
		if !containsAll(out, []string{"FailedCreatePodSandBox", "weir's agent does not answer"}) {
			return fmt.Errorf("the events are\n%s", out)
		}
		return nil
	})
	w.MustKubectl("-n", weirNamespace, "patch", "daemonset", "weir", "--type=json",
		"-p", `[{"op":"remove","path":"/spec/template/spec/nodeSelector/nowhere"}]`)
	w.ready()
	w.AwaitPod(ns, "comes")
	w.checkInterfaces(ns, "comes", "eth0", "net1")
	w.AwaitNoPod(ns, "goes")
	w.remove(ns, "comes")
	w.awaitNothingLeft(n)
}

// A node that loses its power has its disk, and neither pins nor namespaces.
func TestE2EReboot(t *testing.T) {
	w := installed(t)
	ns := w.namespace("reboot")
	n := w.Nodes[0]
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.network(ns, "fixed", object{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth1", "ipam": object{"type": "static"}})
	w.pod(ns, "stays", n, `[{"name":"fixed","ips":["192.168.122.31/24"]},{"name":"lan"}]`)
	w.AwaitPod(ns, "stays")
	n.Reboot()
	w.AwaitReady(n)
	w.ready()
	w.AwaitPod(ns, "stays")
	w.checkInterfaces(ns, "stays", "eth0", "net1", "net2")
	if got := w.Outside.Ping(t.Context(), "192.168.122.31", 4); got != 4 {
		t.Errorf("the outside host has %d of 4 answers", got)
	}
	w.Await("only the new sandbox to be left", time.Minute, func(context.Context) error {
		records := strings.Fields(n.MustRun("ls", "/var/lib/weir/sandboxes"))
		pins := strings.Fields(n.MustRun("sh", "-c", "ls -d /sys/fs/bpf/weir/*-net*"))
		if len(records) != 1 || len(pins) != 2 {
			return fmt.Errorf("there are records %v and pins %v", records, pins)
		}
		return nil
	})
	w.remove(ns, "stays")
	w.awaitNothingLeft(n)
}
