// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-cni/weir/tests/cluster"
)

const (
	weirNamespace = "weir-system"
	weirSelector  = "app=weir"
	entryFile     = "/etc/cni/net.d/00-weir.conflist"
	pluginFile    = "/opt/cni/bin/weir"
)

// weir is a cluster on which weir is installed by its own manifest.
type weir struct {
	*cluster.Cluster
	t *testing.T
}

var installing sync.Mutex

// installed installs weir where it is not installed yet, and waits until it is ready.
func installed(t *testing.T) *weir {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	w := &weir{suite.Cluster(t), t}
	w.Apply(manifest(t, "weir.yaml"))
	w.ready()
	return w
}

func manifest(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("../../deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// ready waits until an agent is ready on every node, and the plugin and weir's entry are
// in place.
func (w *weir) ready() {
	w.t.Helper()
	w.AwaitPods(weirNamespace, weirSelector, len(w.Nodes))
	for _, n := range w.Nodes {
		w.Await("weir on "+n.Name, 30*time.Second, func(context.Context) error {
			_, err := n.Run("test", "-s", entryFile, "-a", "-x", pluginFile)
			return err
		})
	}
}

// agent is the agent's pod on a node.
func (w *weir) agent(n *cluster.Node) *corev1.Pod {
	w.t.Helper()
	for _, pod := range w.AwaitPods(weirNamespace, weirSelector, len(w.Nodes)) {
		if pod.Spec.NodeName == n.Name {
			return &pod
		}
	}
	w.t.Fatalf("no agent on %s", n.Name)
	return nil
}

// ctl executes weirctl in the agent's pod of a node.
func (w *weir) ctl(n *cluster.Node, args ...string) string {
	w.t.Helper()
	out, err := w.Exec(weirNamespace, w.agent(n).Name, append([]string{"/usr/bin/weirctl"}, args...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// namespace makes a namespace of the test's own. When the test ends it is removed, and
// nothing of its pods may be left on the nodes.
func (w *weir) namespace(name string) string {
	w.t.Helper()
	w.MustKubectl("create", "namespace", name)
	w.t.Cleanup(func() {
		w.MustKubectl("delete", "pods", "-n", name, "--all", "--wait=false")
		w.MustKubectl("delete", "namespace", name, "--wait=false")
		w.awaitNothingLeft(w.Nodes...)
	})
	return name
}

// network applies a NetworkAttachmentDefinition.
func (w *weir) network(namespace, name string, config object) {
	w.t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.apply(object{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": object{"namespace": namespace, "name": name}, "spec": object{"config": string(text)},
	})
}

func (w *weir) apply(o object) {
	w.t.Helper()
	data, err := json.Marshal(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Apply(string(data))
}

// pod is a pod of busybox on a node, with the annotation.
func (w *weir) pod(namespace, name string, n *cluster.Node, networks string) {
	w.t.Helper()
	w.apply(object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": object{"namespace": namespace, "name": name, "annotations": object{nadv1.NetworkAttachmentAnnot: networks}},
		"spec": object{
			"nodeName": n.Name, "terminationGracePeriodSeconds": 0,
			"containers": []object{container(cluster.AlpineImage, "sleep", "infinity")},
		},
	})
}

// remove deletes a pod and waits until nothing is left of it.
func (w *weir) remove(namespace, name string) {
	w.t.Helper()
	w.MustKubectl("delete", "pod", "-n", namespace, name, "--wait=false")
	w.AwaitNoPod(namespace, name)
}

// status is a pod's network-status.
func (w *weir) status(namespace, name string) []nadv1.NetworkStatus {
	w.t.Helper()
	pod, err := w.Client().CoreV1().Pods(namespace).Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var status []nadv1.NetworkStatus
	if err := json.Unmarshal([]byte(pod.Annotations[nadv1.NetworkStatusAnnot]), &status); err != nil {
		w.t.Fatalf("network-status %q: %v", pod.Annotations[nadv1.NetworkStatusAnnot], err)
	}
	return status
}

// events are those of a pod that weir wrote, oldest first, as "reason: message".
func (w *weir) events(ctx context.Context, namespace, name string) []string {
	w.t.Helper()
	list, err := w.Client().CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for _, e := range list.Items {
		if e.Source.Component == "weir" {
			all = append(all, e.Type+" "+e.Reason+": "+e.Message)
		}
	}
	return all
}

// awaitEvent waits for an event of a pod in which every one of the texts is.
func (w *weir) awaitEvent(namespace, name string, texts ...string) {
	w.t.Helper()
	w.Await(fmt.Sprintf("an event of %s/%s with %q", namespace, name, texts), 30*time.Second, func(ctx context.Context) error {
		events := w.events(ctx, namespace, name)
		for _, e := range events {
			if containsAll(e, texts) {
				return nil
			}
		}
		return fmt.Errorf("the events are %q", events)
	})
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// leftovers are the records, pins and leases on a node.
func (w *weir) leftovers(n *cluster.Node) string {
	out, _ := n.Run("sh", "-c", "ls /var/lib/weir/sandboxes /sys/fs/bpf/weir /var/lib/cni/networks/* 2>/dev/null | grep -v -e : -e last_reserved -e '^lock$' -e '^$'")
	return out
}

// awaitNothingLeft waits until nodes have nothing of any pod.
func (w *weir) awaitNothingLeft(nodes ...*cluster.Node) {
	w.t.Helper()
	for _, n := range nodes {
		w.Await("nothing to be left on "+n.Name, time.Minute, func(context.Context) error {
			if left := w.leftovers(n); left != "" {
				return fmt.Errorf("there is\n%s", left)
			}
			return nil
		})
	}
}
