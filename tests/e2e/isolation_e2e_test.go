// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// seeker is a pod that tries to reach others as soon as it runs, and prints whom it has reached.
func seeker(ns, name, node, networks string, addresses []string) object {
	command := fmt.Sprintf("while :; do for a in %s; do ping -c1 -W1 -I net1 $a >/dev/null && echo reached $a; done; echo round; done",
		strings.Join(addresses, " "))
	return object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": object{"namespace": ns, "name": name, "annotations": object{"k8s.v1.cni.cncf.io/networks": networks}},
		"spec": object{
			"nodeName": node, "terminationGracePeriodSeconds": 0,
			"containers": []object{container("docker.io/library/alpine:latest", "sh", "-c", command)},
		},
	}
}

// Isolated pods that come up at the same time on two nodes never reach each other, from
// their first packet on; all reach a promiscuous pod, and those of a community each other.
func TestE2EIsolation(t *testing.T) {
	const each = 3
	w := installed(t)
	ns := w.namespace("isolation")
	for name, isolation := range map[string]any{
		"isolated": "isolated", "promiscuous": "promiscuous", "red": object{"community": "red"},
	} {
		w.network(ns, name, object{
			"cniVersion": "1.0.0", "type": "macvlan", "master": "eth1", "ipam": object{"type": "static"},
			"weir": object{"isolation": isolation, "segment": ns},
		})
	}
	const free = "192.168.122.10"
	w.pod(ns, "free", w.Nodes[0], `[{"name":"promiscuous","ips":["`+free+`/24"]}]`)
	w.AwaitPod(ns, "free")
	var isolated, red []string
	for i := range each * 2 {
		isolated = append(isolated, fmt.Sprintf("192.168.122.%d", 20+i))
		red = append(red, fmt.Sprintf("192.168.122.%d", 40+i))
	}
	want := map[string][]string{} // whom each is to reach
	addresses := map[string]string{}
	for role, own := range map[string][]string{"isolated": isolated, "red": red} {
		for i, address := range own {
			name := fmt.Sprintf("%s-%d", role, i)
			addresses[name] = address
			want[name] = []string{free}
			if role == "red" {
				want[name] = append(want[name], red...)
			}
			others := append(append([]string{free}, isolated...), red...)
			w.apply(seeker(ns, name, w.Nodes[i%2].Name, fmt.Sprintf(`[{"name":%q,"ips":["%s/24"]}]`, role, address), without(others, address)))
		}
	}
	for name := range want {
		w.AwaitPod(ns, name)
	}
	for name, reaches := range want {
		w.Await(name+" to have tried all", 3*time.Minute, func(context.Context) error {
			return w.checkReached(ns, name, without(reaches, addresses[name]))
		})
	}
	w.remove(ns, "isolated-0")
	w.pod(ns, "late", w.Nodes[1], `[{"name":"isolated","ips":["192.168.122.60/24"]}]`)
	w.AwaitPod(ns, "late")
	for _, other := range []string{isolated[2], red[1], isolated[3]} {
		if out, err := w.Exec(ns, "late", "ping", "-c2", "-W1", "-I", "net1", other); err == nil {
			t.Errorf("a pod that came later reaches %s:\n%s", other, out)
		}
	}
	if out, err := w.Exec(ns, "late", "ping", "-c2", "-W5", "-I", "net1", free); err != nil {
		t.Errorf("a pod that came later does not reach the promiscuous one: %v\n%s", err, out)
	}
}

func without(all []string, one string) []string {
	var rest []string
	for _, s := range all {
		if s != one {
			rest = append(rest, s)
		}
	}
	return rest
}

// checkReached reads what a seeker has printed once it has been round twice.
func (w *weir) checkReached(ns, name string, want []string) error {
	out := w.MustKubectl("-n", ns, "logs", name)
	wanted := map[string]bool{}
	for _, address := range want {
		wanted[address] = true
		if !strings.Contains(out, "reached "+address+"\n") {
			return fmt.Errorf("%s has not reached %s yet", name, address)
		}
	}
	for line := range strings.Lines(out) {
		if address, found := strings.CutPrefix(strings.TrimSpace(line), "reached "); found && !wanted[address] {
			w.t.Errorf("%s has reached %s, which it may not talk to", name, address)
		}
	}
	if strings.Count(out, "round") < 2 {
		return fmt.Errorf("%s has not been round twice", name)
	}
	return nil
}
