// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
)

// The agent is the last to be evicted, and has no more of the node than its manifest
// says; the kustomization is the manifest.
func TestE2EManifests(t *testing.T) {
	w := installed(t)
	agent := w.agent(w.Nodes[0])
	if agent.Status.QOSClass != corev1.PodQOSGuaranteed || agent.Spec.PriorityClassName != "system-node-critical" {
		t.Errorf("the agent is %s, of priority %s", agent.Status.QOSClass, agent.Spec.PriorityClassName)
	}
	for _, c := range agent.Spec.Containers {
		if c.SecurityContext == nil || c.SecurityContext.Privileged == nil || *c.SecurityContext.Privileged {
			t.Errorf("%s is privileged", c.Name)
		}
	}
	built := w.MustKubectl("kustomize", "../../deploy")
	if got, want := strings.Count("\n"+built, "\nkind: "), strings.Count("\n"+manifest(t, "weir.yaml"), "\nkind: "); got != want {
		t.Errorf("the kustomization has %d objects, weir.yaml %d", got, want)
	}
}

// A network-status that somebody writes over is written again.
func TestE2EStatusIsKept(t *testing.T) {
	w := installed(t)
	ns := w.namespace("status")
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.pod(ns, "web", w.Nodes[0], "lan")
	w.AwaitPod(ns, "web")
	before := w.status(ns, "web")
	for _, change := range []string{nadv1.NetworkStatusAnnot + "-", nadv1.NetworkStatusAnnot + "=[]", nadv1.NetworkStatusAnnot + "=nonsense"} {
		w.MustKubectl("annotate", "pod", "-n", ns, "web", "--overwrite", change)
		w.Await("the network-status to be back after "+change, 30*time.Second, func(context.Context) error {
			out := w.MustKubectl("get", "pod", "-n", ns, "web", "-o", `jsonpath={.metadata.annotations.k8s\.v1\.cni\.cncf\.io/network-status}`)
			if !strings.Contains(out, `"net1"`) {
				return fmt.Errorf("it is %q", out)
			}
			return nil
		})
	}
	if after := w.status(ns, "web"); len(after) != len(before) || after[1].Mac != before[1].Mac {
		t.Errorf("it was %+v and is %+v", before, after)
	}
}
