// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The walkthrough: a network and a pod as users write them, and what they look at
// afterwards.
func TestE2EWalkthrough(t *testing.T) {
	w := installed(t)
	ns := w.namespace("example-multus")
	n := w.Nodes[0]
	tests := []struct {
		name, lan string
		config    object
		prepare   func()
	}{
		{"macvlan", "192.168.122", object{"cniVersion": "0.3.1", "type": "macvlan", "master": "eth1"}, nil},
		{"bridge", "192.168.123", object{"cniVersion": "1.0.0", "type": "bridge", "bridge": "lan0"}, func() {
			n.MustRun("ip", "link", "add", "lan0", "type", "bridge")
			n.MustRun("ip", "link", "set", "lan0", "up")
			n.MustRun("ip", "link", "set", "eth2", "master", "lan0")
			t.Cleanup(func() { n.MustRun("ip", "link", "del", "lan0") })
		}},
		{"host-device", "192.168.122", object{"cniVersion": "1.0.0", "type": "host-device", "device": "eth1"}, nil},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.prepare != nil {
				test.prepare()
			}
			// Each has its own: the outside host remembers the MAC of the one before.
			address := fmt.Sprintf("%s.%d", test.lan, 188+i)
			test.config["ipam"] = object{"type": "static", "routes": []object{{"dst": "198.51.100.0/24", "gw": test.lan + ".1"}}}
			w := &weir{w.Cluster, t}
			w.network(ns, "example-nad", test.config)
			w.pod(ns, "example-nad-pod", n, `[{"name":"example-nad","namespace":"example-multus","ips":["`+address+`/24"]}]`)
			pod := w.AwaitPod(ns, "example-nad-pod")
			w.checkAttached(ns, pod.Name, pod.Status.PodIP, address)
			if got := w.Outside.Ping(t.Context(), address, 4); got != 4 {
				t.Errorf("the outside host has %d of 4 answers", got)
			}
			if out := w.ctl(n, "get"); !strings.Contains(out, "example-nad-pod") || !strings.Contains(out, address) {
				t.Errorf("weirctl get:\n%s", out)
			}
			w.remove(ns, pod.Name)
			w.awaitNothingLeft(n)
		})
	}
}

// checkAttached looks at what a user sees of a pod with net1: events, network-status
// and addresses.
func (w *weir) checkAttached(ns, name, eth0, net1 string) {
	w.t.Helper()
	w.awaitEvent(ns, name, "Normal AddedInterface: Add eth0 ["+eth0+"/", "] from ")
	w.awaitEvent(ns, name, "Normal AddedInterface: Add net1 ["+net1+"/24] from example-multus/example-nad")
	status := w.status(ns, name)
	if len(status) != 2 || !status[0].Default || status[0].Interface != "eth0" || !slices.Contains(status[0].IPs, eth0) ||
		status[1].Name != "example-multus/example-nad" || status[1].Interface != "net1" || !slices.Contains(status[1].IPs, net1) {
		w.t.Errorf("network-status: %+v", status)
	}
	out, err := w.Exec(ns, name, "ip", "a")
	if err != nil || !strings.Contains(out, "inet "+net1+"/24") || !strings.Contains(out, "inet "+eth0+"/") {
		w.t.Errorf("ip a: %v\n%s", err, out)
	}
}

// The examples do what they say. That of ipvlan needs a kernel that has it.
func TestE2EExamples(t *testing.T) {
	w := installed(t)
	ns := w.namespace("examples")
	tests := []struct {
		file       string
		interfaces []string
	}{
		{"macvlan", []string{"eth0", "net1"}},
		{"bridge", []string{"eth0", "storage"}},
		{"host-device", []string{"eth0", "net1"}},
		{"list", []string{"eth0", "net1", "second"}},
	}
	for _, test := range tests {
		w.MustKubectl("apply", "-n", ns, "-f", "../../deploy/examples/"+test.file+".yaml")
	}
	for _, test := range tests {
		t.Run(test.file, func(t *testing.T) {
			w := &weir{w.Cluster, t}
			w.AwaitPod(ns, test.file+"-pod")
			w.checkInterfaces(ns, test.file+"-pod", test.interfaces...)
		})
	}
	out, err := w.Exec(ns, "list-pod", "ip", "route")
	if err != nil || strings.Count(out, "default") != 1 || !strings.Contains(out, "default via 192.168.122.1 dev net1") {
		t.Errorf("the routes of list-pod: %v\n%s", err, out)
	}
}
