// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-cni/weir/tests/cluster"
)

// elsewhere are rights that this test does not see used: they are for what the cluster does
// not always have.
var elsewhere = map[string]string{
	"get resourceclaims":  "a DRA driver's",
	"list resourceslices": "a DRA driver's",

	"get ipamclaims": "addresses that stay", "list ipamclaims": "addresses that stay",
	"watch ipamclaims": "addresses that stay", "patch ipamclaims/status": "addresses that stay",
}

// The agent asks for all that its ClusterRole allows, and for nothing else.
func TestE2ERights(t *testing.T) {
	w := installed(t)
	ns := w.namespace("rights")
	n := w.Nodes[0]
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.pod(ns, "web", n, "lan")
	w.AwaitPod(ns, "web")
	// A network that is not there is asked for by name, as is a pod; and an event that
	// comes again is patched.
	w.pod(ns, "waits", n, "nowhere")
	w.awaitEvent(ns, "waits", "NoNetworkFound")
	w.addUnknownPod(n)
	want := w.rights()
	w.Await("every right to be used", 2*time.Minute, func(context.Context) error {
		used, forbidden := w.asked()
		if len(forbidden) > 0 {
			t.Fatalf("the agent was refused %v", forbidden)
		}
		if diff := cmp.Diff(want, used); diff != "" {
			return fmt.Errorf("-allowed +used:\n%s", diff)
		}
		return nil
	})
}

// rights are what the ClusterRole allows, as "verb resource".
func (w *weir) rights() []string {
	w.t.Helper()
	role, err := w.Client().RbacV1().ClusterRoles().Get(w.t.Context(), "weir", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	all := map[string]bool{}
	for _, rule := range role.Rules {
		for _, verb := range rule.Verbs {
			for _, resource := range rule.Resources {
				if right := verb + " " + resource; elsewhere[right] == "" {
					all[right] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// asked is what agents asked of the API server, and what of that it refused.
func (w *weir) asked() (used, forbidden []string) {
	w.t.Helper()
	allUsed, allForbidden := map[string]bool{}, map[string]bool{}
	w.audit(func(right string, forbidden bool) {
		if elsewhere[right] == "" {
			allUsed[right] = true
		}
		if forbidden {
			allForbidden[right] = true
		}
	})
	return slices.Sorted(maps.Keys(allUsed)), slices.Sorted(maps.Keys(allForbidden))
}

// requests counts what agents asked of the API server.
func (w *weir) requests() map[string]int {
	w.t.Helper()
	counts := map[string]int{}
	w.audit(func(right string, _ bool) { counts[right]++ })
	return counts
}

// audit calls fn for each request of an agent to the API server, with its "verb
// resource" and whether the agent had no right to it. The code of the answer does not
// tell: 403 is also the answer to an event in a namespace that is going.
func (w *weir) audit(fn func(right string, forbidden bool)) {
	w.t.Helper()
	data, err := os.ReadFile(w.AuditLog())
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var e struct {
			Verb        string
			User        struct{ Username string }
			ObjectRef   struct{ Resource, Subresource string }
			Annotations map[string]string
		}
		// The last line may still be being written.
		if json.Unmarshal([]byte(line), &e) != nil || e.User.Username != "system:serviceaccount:weir-system:weir" {
			continue
		}
		right := e.Verb + " " + e.ObjectRef.Resource
		if e.ObjectRef.Subresource != "" {
			right += "/" + e.ObjectRef.Subresource
		}
		fn(right, e.Annotations["authorization.k8s.io/decision"] != "allow")
	}
}

// addUnknownPod calls the plugin as the runtime does, for a pod that is not there.
func (w *weir) addUnknownPod(n *cluster.Node) {
	w.t.Helper()
	out, err := n.Run("sh", "-c", `ip netns add unknown
python3 -c 'import json; l = json.load(open("`+entryFile+`")); print(json.dumps(dict(l["plugins"][0], name=l["name"], cniVersion=l["cniVersion"])))' |
	CNI_COMMAND=ADD CNI_CONTAINERID=unknown CNI_NETNS=/run/netns/unknown CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
	CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nobody' `+pluginFile+`
ip netns del unknown`)
	if err != nil || !strings.Contains(out, `"code": 11`) || !strings.Contains(out, "default/nobody") {
		w.t.Errorf("an ADD for a pod that is not there: %v\n%s", err, out)
	}
}

// A pod cannot use the agent's socket: one of its own accord does not see it, and one
// that was given the directory needs root. Whoever may give pods directories of the node
// and root there has the node.
func TestE2ESocket(t *testing.T) {
	w := installed(t)
	n := w.Nodes[0]
	const ask = `echo '{"cniVersion":"1.1.0","name":"x","type":"weir"}' | CNI_COMMAND=STATUS CNI_PATH=/plugins /plugins/weir && echo answered; true`
	tests := []struct {
		name    string
		mounted bool
		user    int
		answer  bool
	}{
		{"plain", false, 0, false},
		{"mounted", true, 1000, false},
		{"root", true, 0, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			main := container(cluster.AlpineImage, "sleep", "infinity")
			main["securityContext"] = object{"runAsUser": test.user}
			mounts := []object{{"name": "plugins", "mountPath": "/plugins", "readOnly": true}}
			if test.mounted {
				mounts = append(mounts, object{"name": "run", "mountPath": "/run/weir"})
			}
			main["volumeMounts"] = mounts
			pod := runPod(t, w.Cluster, n, test.name, object{"containers": []object{main}, "volumes": []object{
				{"name": "plugins", "hostPath": object{"path": "/opt/cni/bin"}}, {"name": "run", "hostPath": object{"path": "/run/weir"}},
			}})
			out, err := w.Exec("default", pod.Name, "sh", "-c", ask)
			if err != nil || strings.Contains(out, "answered") != test.answer {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
