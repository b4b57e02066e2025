// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-cni/weir/tests/cluster"
)

func macvlanOn(master, address string) object {
	return object{"cniVersion": "1.0.0", "type": "macvlan", "master": master, "ipam": object{
		"type": "host-local", "ranges": []any{[]object{{"subnet": address + ".0/24", "rangeStart": address + ".100", "rangeEnd": address + ".200"}}},
	}}
}

// Pods on two nodes reach each other in one network and not across two.
func TestE2ETwoNodes(t *testing.T) {
	w := installed(t)
	ns := w.namespace("two-nodes")
	w.network(ns, "first", object{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth1", "ipam": object{"type": "static"}})
	w.network(ns, "second", object{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth2", "ipam": object{"type": "static"}})
	pods := map[string]string{ // their networks and addresses
		"a": `[{"name":"first","ips":["192.168.122.10/24"]}]`,
		"b": `[{"name":"first","ips":["192.168.122.11/24"]}]`,
		"c": `[{"name":"second","ips":["192.168.122.12/24"]}]`,
	}
	for i, name := range []string{"a", "b", "c"} {
		w.pod(ns, name, w.Nodes[i%2], pods[name])
	}
	for name := range pods {
		w.AwaitPod(ns, name)
	}
	tests := []struct {
		name, from, to string
		reaches        bool
	}{
		{"one network, two nodes", "a", "192.168.122.11", true},
		{"two networks, one node", "a", "192.168.122.12", false},
		{"two networks, two nodes", "b", "192.168.122.12", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			out, err := w.Exec(ns, test.from, "ping", "-c2", "-W2", "-I", "net1", test.to)
			if (err == nil) != test.reaches {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// A Deployment of 20 replicas with two networks each comes and goes, and leaves nothing.
func TestE2EDeployment(t *testing.T) {
	const replicas, rounds = 20, 3
	w := installed(t)
	ns := w.namespace("deployment")
	w.network(ns, "first", macvlanOn("eth1", "192.168.122"))
	w.network(ns, "second", macvlanOn("eth2", "192.168.123"))
	deployment := object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": object{"namespace": ns, "name": "web"},
		"spec": object{
			"replicas": replicas, "selector": object{"matchLabels": object{"app": "web"}},
			"template": object{
				"metadata": object{"labels": object{"app": "web"}, "annotations": object{"k8s.v1.cni.cncf.io/networks": "first,second"}},
				"spec": object{
					"terminationGracePeriodSeconds": 0,
					"containers":                    []object{container("docker.io/library/alpine:latest", "sleep", "infinity")},
				},
			},
		},
	}
	for range rounds {
		w.apply(deployment)
		addresses := map[string]string{}
		for _, pod := range w.AwaitPods(ns, "app=web", replicas) {
			status := w.status(ns, pod.Name)
			if len(status) != 3 {
				t.Fatalf("network-status of %s: %+v", pod.Name, status)
			}
			for _, s := range status[1:] {
				// host-local knows its own node alone.
				key := pod.Spec.NodeName + " " + s.Name + " " + strings.Join(s.IPs, ",")
				if other := addresses[key]; other != "" || len(s.IPs) != 1 {
					t.Errorf("%s and %s both have %s", pod.Name, other, key)
				}
				addresses[key] = pod.Name
			}
		}
		w.MustKubectl("delete", "deployment", "-n", ns, "web", "--wait=false")
		w.Await("the pods to be gone", time.Minute, func(context.Context) error {
			if out := w.MustKubectl("get", "pods", "-n", ns, "-o", "name"); out != "" {
				return fmt.Errorf("%d are left", strings.Count(out, "\n"))
			}
			return nil
		})
		w.awaitNothingLeft(w.Nodes...)
	}
}

// A running pod follows its annotation, under traffic that goes on.
func TestE2EHotPlug(t *testing.T) {
	w := installed(t)
	ns := w.namespace("hotplug")
	n := w.Nodes[0]
	w.network(ns, "first", object{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth1", "ipam": object{"type": "static"}})
	w.network(ns, "second", macvlanOn("eth2", "192.168.123"))
	const first = `{"name":"first","ips":["192.168.122.20/24"]}`
	w.pod(ns, "web", n, "["+first+"]")
	w.AwaitPod(ns, "web")

	const pings = 25
	answers := make(chan int, 1)
	go func() { answers <- w.Outside.Ping(context.Background(), "192.168.122.20", pings) }()
	annotate := func(networks string) {
		w.MustKubectl("annotate", "pod", "-n", ns, "web", "--overwrite", "k8s.v1.cni.cncf.io/networks="+networks)
	}
	annotate("[" + first + `,{"name":"second","interface":"data0"},{"name":"second"}]`)
	w.awaitInterfaces(ns, "web", "eth0", "net1", "data0", "net2")
	w.awaitEvent(ns, "web", "AddedInterface: Add data0 [192.168.123.", "/24] from hotplug/second")
	annotate("[" + first + `,{"name":"nowhere"}]`)
	w.awaitEvent(ns, "web", "Warning NoNetworkFound", "nowhere")
	w.checkInterfaces(ns, "web", "eth0", "net1", "data0", "net2")
	annotate("[" + first + `,{"name":"second"}]`)
	w.awaitInterfaces(ns, "web", "eth0", "net1", "net2")
	w.awaitEvent(ns, "web", "RemovedInterface: Remove data0 from hotplug/second")
	annotate("[" + first + "]")
	w.awaitInterfaces(ns, "web", "eth0", "net1")
	if got := <-answers; got != pings {
		t.Errorf("%d of %d pings to net1 were answered meanwhile", got, pings)
	}
	annotate("[]")
	w.awaitInterfaces(ns, "web", "eth0")
	w.remove(ns, "web")
	if left := w.leftovers(n); strings.Contains(left, "192.168.123") {
		t.Errorf("an address is left:\n%s", left)
	}
}

// awaitInterfaces waits until a pod has these interfaces, and its network-status says so.
func (w *weir) awaitInterfaces(namespace, name string, want ...string) { //nolint:unparam // It reads as its siblings do.
	w.t.Helper()
	w.Await(fmt.Sprintf("the interfaces %v", want), 30*time.Second, func(context.Context) error {
		var have []string
		for _, s := range w.status(namespace, name) {
			have = append(have, s.Interface)
		}
		if strings.Join(have, " ") != strings.Join(want, " ") {
			return fmt.Errorf("the network-status has %v", have)
		}
		return nil
	})
	w.checkInterfaces(namespace, name, want...)
}

func (w *weir) checkInterfaces(namespace, name string, want ...string) {
	w.t.Helper()
	out, err := w.Exec(namespace, name, "ls", "/sys/class/net")
	if err != nil {
		w.t.Fatal(err)
	}
	have := map[string]bool{}
	for _, i := range strings.Fields(out) {
		have[i] = true
	}
	for _, i := range append(want, "lo") {
		if !have[i] {
			w.t.Errorf("the pod has no %s but %v", i, strings.Fields(out))
		}
	}
	if len(have) != len(want)+1 {
		w.t.Errorf("the pod has %v, want %v", strings.Fields(out), want)
	}
}

// A static pod, which the kubelet has from a file, has its networks; its status and
// events are with its image in the API.
func TestE2EStaticPod(t *testing.T) {
	w := installed(t)
	ns := w.namespace("static")
	n := w.Nodes[0]
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	text, err := json.Marshal(object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": object{"namespace": ns, "name": "web", "annotations": object{"k8s.v1.cni.cncf.io/networks": "lan"}},
		"spec": object{
			"terminationGracePeriodSeconds": 0,
			"containers":                    []object{container("docker.io/library/alpine:latest", "sleep", "infinity")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := n.Path(cluster.StaticPods + "/web.json")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	name := "web-" + n.Name
	w.Await("the static pod", 90*time.Second, func(context.Context) error {
		_, err := w.Kubectl("wait", "-n", ns, "pod/"+name, "--for=condition=Ready", "--timeout=1s")
		return err
	})
	w.checkInterfaces(ns, name, "eth0", "net1")
	if status := w.status(ns, name); len(status) != 2 || status[1].Interface != "net1" {
		t.Errorf("network-status: %+v", status)
	}
	w.awaitEvent(ns, name, "AddedInterface: Add net1 [")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	w.AwaitNoPod(ns, name)
	w.awaitNothingLeft(n)
}

// With warm watches an ADD asks the API server for one patch, and nothing else.
func TestE2EAddReadsNothing(t *testing.T) {
	w := installed(t)
	ns := w.namespace("reads")
	n := w.Nodes[0]
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.pod(ns, "first", n, "lan")
	w.AwaitPod(ns, "first")
	const pods = 10
	before := w.requests()
	for i := range pods {
		w.pod(ns, fmt.Sprintf("web-%d", i), n, "lan,lan")
	}
	for i := range pods {
		w.AwaitPod(ns, fmt.Sprintf("web-%d", i))
	}
	after := w.requests()
	asked := map[string]int{}
	for right, count := range after {
		if more := count - before[right]; more > 0 {
			asked[right] = more
		}
	}
	t.Logf("%d pods with two networks each: %v", pods, asked)
	if asked["patch pods/status"] != pods || asked["get network-attachment-definitions"] != 0 || asked["list pods"] != 0 {
		t.Errorf("the agents asked for %v", asked)
	}
	// The watch and the ADD race for a new pod.
	if reads := asked["get pods"]; reads > pods/2 {
		t.Errorf("%d of %d pods were read by name", reads, pods)
	}
}
