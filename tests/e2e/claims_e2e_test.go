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

// The type of IPAMClaims, as far as weir reads them.
const ipamClaims = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ipamclaims.k8s.cni.cncf.io}
spec:
  group: k8s.cni.cncf.io
  scope: Namespaced
  names: {plural: ipamclaims, singular: ipamclaim, kind: IPAMClaim}
  versions:
    - name: v1alpha1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              required: [network, interface]
              properties:
                network: {type: string}
                interface: {type: string}
                ipRequests: {type: array, items: {type: string}}
            status:
              type: object
              required: [ips, ownerPod]
              properties:
                ips: {type: array, items: {type: string}}
                ownerPod: {type: string}
`

// The addresses of a claim stay from one pod to the next, on either node and while the
// agent restarts, and are nobody else's until it is deleted.
func TestE2EClaims(t *testing.T) {
	w := installed(t)
	w.Apply(ipamClaims)
	t.Cleanup(func() { w.MustKubectl("delete", "crd", "ipamclaims.k8s.cni.cncf.io") })
	w.Await("the type of IPAMClaims", time.Minute, func(context.Context) error {
		_, err := w.Kubectl("get", "ipamclaims", "-A")
		return err
	})
	ns := w.namespace("claims")
	n := w.Nodes[0]
	lan := macvlanOn("eth1", "192.168.122")
	lan["name"] = "claimed"
	w.network(ns, "lan", lan)
	const claimed = `[{"name":"lan","ipam-claim-reference":"vm"}]`

	w.pod(ns, "vm-1", n, claimed)
	w.awaitEvent(ns, "vm-1", "the cluster has no IPAMClaim "+ns+"/vm")
	w.apply(object{
		"apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": "IPAMClaim", "metadata": object{"namespace": ns, "name": "vm"},
		"spec": object{"network": "claimed", "interface": "net1", "ipRequests": []string{"192.168.122.101/24"}},
	})
	w.AwaitPod(ns, "vm-1")
	w.checkClaim(ns, "vm-1", "192.168.122.101")

	w.pod(ns, "vm-2", n, claimed)
	w.awaitEvent(ns, "vm-2", "are in use by net1")
	w.remove(ns, "vm-1")
	w.AwaitPod(ns, "vm-2")
	w.checkClaim(ns, "vm-2", "192.168.122.101")
	w.remove(ns, "vm-2")

	n.MustRun("sh", "-c", "pkill -9 -x weir-agent")
	// An attempt without an agent would have the kubelet take its time before the next.
	w.Await("the agent to be back", time.Minute, func(context.Context) error {
		_, err := n.Run("curl", "-sf", "http://"+n.Address+":9842/readyz")
		return err
	})
	w.pod(ns, "other", n, `[{"name":"lan","ips":["192.168.122.101"]}]`)
	w.awaitEvent(ns, "other", "192.168.122.101")
	w.pod(ns, "vm-3", w.Nodes[1], claimed)
	w.AwaitPod(ns, "vm-3")
	w.checkClaim(ns, "vm-3", "192.168.122.101")

	w.MustKubectl("delete", "ipamclaim", "-n", ns, "vm")
	w.AwaitPod(ns, "other")
	w.remove(ns, "other")
	w.remove(ns, "vm-3")
	for _, n := range w.Nodes {
		w.Await("no lease to be left on "+n.Name, time.Minute, func(context.Context) error {
			if out := n.MustRun("sh", "-c", "ls /var/lib/weir/leases /var/lib/cni/networks/claimed | grep -e json -e 192 || true"); out != "" {
				return fmt.Errorf("there is %s", out)
			}
			return nil
		})
	}
}

// checkClaim makes sure that a pod has the address of the claim, and that the claim says so.
func (w *weir) checkClaim(ns, pod, address string) {
	w.t.Helper()
	if out, err := w.Exec(ns, pod, "ip", "address", "show", "net1"); err != nil || !strings.Contains(out, address+"/24") {
		w.t.Errorf("%v\n%s", err, out)
	}
	const status = "{.status.ips} {.status.ownerPod}"
	if got, want := w.MustKubectl("get", "ipamclaim", "-n", ns, "vm", "-o", "jsonpath="+status), fmt.Sprintf("[%q] %s", address+"/24", pod); got != want {
		w.t.Errorf("the claim has %s, want %s", got, want)
	}
}
