// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-cni/weir/tests/cluster"
)

const multusFile = "/etc/cni/net.d/00-multus.conf"

// A node that runs Multus is handed over to weir, and back: pods have their networks
// from the one and from the other.
func TestE2EMultusAndBack(t *testing.T) {
	w := installed(t)
	ns := w.namespace("multus")
	n := w.Nodes[1]
	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.installMultus(n)

	w.checkAttachedBy(ns, "before", n, "multus")
	plan := w.ctl(n, "migrate")
	if !containsAll(plan, []string{multusFile, "thin", entryFile, "clusterNetwork"}) {
		t.Errorf("weirctl migrate:\n%s", plan)
	}
	if out := n.MustRun("ls", multusFile); out == "" {
		t.Error("the plan has changed something")
	}
	original := n.MustRun("cat", multusFile)
	w.ctl(n, "migrate", "--apply")
	w.checkAttachedBy(ns, "between", n, "weir")
	w.ctl(n, "migrate", "--revert")
	if now := n.MustRun("cat", multusFile); now != original {
		t.Errorf("Multus's file was\n%s\nand is\n%s", original, now)
	}
	w.checkAttachedBy(ns, "after", n, "multus")
}

// installMultus puts the thin Multus on a node until the test ends: its configuration
// goes before all others.
func (w *weir) installMultus(n *cluster.Node) {
	w.t.Helper()
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Dir(n.Path("/opt/cni/bin/multus"))+"/", "tool")
	build.Dir, build.Env = "multus", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		w.t.Fatalf("compiling Multus: %v\n%s", err, out)
	}
	config, err := json.Marshal(object{
		"cniVersion": "0.4.0", "name": "multus-cni-network", "type": "multus", "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
		"clusterNetwork": "/etc/cni/net.d/10-default.conflist", "logLevel": "error", "namespaceIsolation": false,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	files := map[string][]byte{"/etc/cni/net.d/multus.d/multus.kubeconfig": w.nodeKubeconfig(), multusFile: config}
	for _, path := range []string{"/etc/cni/net.d/multus.d/multus.kubeconfig", multusFile} {
		if err := os.MkdirAll(filepath.Dir(n.Path(path)), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(n.Path(path), files[path], 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	w.t.Cleanup(func() {
		n.MustRun("rm", "-rf", multusFile, "/etc/cni/net.d/multus.d", "/opt/cni/bin/multus", "/var/lib/cni/multus")
	})
}

// nodeKubeconfig is the administrator's, by the way that nodes have to the API server.
func (w *weir) nodeKubeconfig() []byte {
	w.t.Helper()
	data, err := os.ReadFile(w.Kubeconfig)
	if err != nil {
		w.t.Fatal(err)
	}
	direct := regexp.MustCompile(`https://[0-9.]+:\d+`)
	return direct.ReplaceAll(data, []byte("https://10.96.0.1:443"))
}

// checkAttachedBy makes a pod with a network, and looks who attached it.
func (w *weir) checkAttachedBy(namespace, name string, n *cluster.Node, who string) {
	w.t.Helper()
	w.pod(namespace, name, n, "lan")
	w.AwaitPod(namespace, name)
	w.checkInterfaces(namespace, name, "eth0", "net1")
	if status := w.status(namespace, name); len(status) != 2 || status[1].Name != namespace+"/lan" {
		w.t.Errorf("network-status of %s: %+v", name, status)
	}
	w.Await("the event of net1 by "+who, 30*time.Second, func(ctx context.Context) error {
		list, err := w.Client().CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err
		}
		var sources []string
		for _, e := range list.Items {
			if e.Reason == "AddedInterface" && strings.HasPrefix(e.Message, "Add net1 [192.168.122.") {
				sources = append(sources, e.Source.Component)
			}
		}
		if len(sources) != 1 || sources[0] != who {
			return fmt.Errorf("such events are by %q", sources)
		}
		return nil
	})
	w.remove(namespace, name)
	if who == "multus" {
		// Its DEL of a list leaves the default network's address (4.2.4: "no IP ranges
		// specified").
		n.MustRun("sh", "-c", "rm -f /var/lib/cni/networks/default/10.*")
	}
	w.awaitNothingLeft(n)
}
