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

// Weir's entry is put back whatever is done to it, the default network's changes are
// followed, and the node's events say what happened.
func TestE2EEntryIsKept(t *testing.T) {
	w := installed(t)
	n := w.Nodes[0]
	const network = "/etc/cni/net.d/10-default.conflist"
	tests := []struct{ name, command, reason string }{
		{"removed", "rm " + entryFile, "ConfigurationRestored"},
		{"renamed by Cilium", "mv " + entryFile + " " + entryFile + ".cilium_bak", "ConfigurationRestored"},
		{"emptied", ": > " + entryFile, "ConfigurationRestored"},
		{"the plugin removed", "rm " + pluginFile, "PluginRestored"},
		{"the plugin changed", "echo x > " + pluginFile + ".new && mv " + pluginFile + ".new " + pluginFile, "PluginRestored"},
	}
	original := n.MustRun("cat", entryFile)
	plugin := n.MustRun("sha256sum", pluginFile)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := &weir{w.Cluster, t}
			n.MustRun("sh", "-c", test.command)
			w.Await("weir's files to be back", 40*time.Second, func(context.Context) error {
				entry, err := n.Run("cat", entryFile)
				sum, sumErr := n.Run("sha256sum", pluginFile)
				if err == nil && sumErr == nil && (entry != original || sum != plugin) {
					return fmt.Errorf("the entry is %q, the plugin %s", entry, sum)
				}
				return errors.Join(err, sumErr)
			})
			w.awaitNodeEvent(n, test.reason)
		})
	}
	n.MustRun("rm", "-f", entryFile+".cilium_bak")
	t.Run("the default network gets a capability", func(*testing.T) {
		defer n.MustRun("cp", "/tmp/default.conflist", network)
		n.MustRun("sh", "-c", "cp "+network+" /tmp/default.conflist && sed 's/\"type\": *\"bridge\"/\"type\": \"bridge\", \"capabilities\": {\"mac\": true}/' /tmp/default.conflist > "+network)
		w.Await("weir's entry to have it", 30*time.Second, func(context.Context) error {
			if entry := n.MustRun("cat", entryFile); !strings.Contains(entry, `"mac": true`) {
				return fmt.Errorf("it is %s", entry)
			}
			return nil
		})
	})
}

func (w *weir) awaitNodeEvent(n *cluster.Node, reason string) {
	w.t.Helper()
	w.Await("the node's event "+reason, 90*time.Second, func(context.Context) error {
		if out := w.MustKubectl("describe", "node", n.Name); !strings.Contains(out, reason) {
			return errors.New("kubectl describe node does not show it")
		}
		return nil
	})
}

// Weir is taken off and put back: pods start as before in between, and those that asked
// for networks then are found.
func TestE2EUninstall(t *testing.T) {
	w := installed(t)
	ns := w.namespace("uninstall")
	n := w.Nodes[0]
	w.awaitNothingLeft(w.Nodes...)
	// The namespaces and networks stay for the next install, as a user would have it.
	w.MustKubectl("-n", weirNamespace, "delete", "daemonset", "weir")
	w.Apply(manifest(t, "uninstall.yaml"))
	w.AwaitPods("weir-uninstall", "app=weir-uninstall", len(w.Nodes))
	for _, n := range w.Nodes {
		if out, err := n.Run("sh", "-c", "ls -d "+entryFile+" "+pluginFile+" /sys/fs/bpf/weir /var/lib/weir/* 2>/dev/null"); out != "" {
			t.Errorf("%s still has %s, %v", n.Name, out, err)
		}
	}
	w.MustKubectl("delete", "-f", "../../deploy/uninstall.yaml")

	w.network(ns, "lan", macvlanOn("eth1", "192.168.122"))
	w.pod(ns, "missed", n, "lan")
	w.AwaitPod(ns, "missed")
	w.checkInterfaces(ns, "missed", "eth0")

	w.Apply(manifest(t, "weir.yaml"))
	w.ready()
	w.awaitEvent(ns, "missed", "Warning MissedNetworks")
	if out := n.MustRun("curl", "-s", "http://"+n.Address+":9842/metrics"); !strings.Contains(out, "\nweir_pods_without_networks 1\n") {
		t.Error("weir_pods_without_networks is not 1")
	}
	w.remove(ns, "missed")
	w.pod(ns, "found", n, "lan")
	w.AwaitPod(ns, "found")
	w.checkInterfaces(ns, "found", "eth0", "net1")
	w.Await("the metric to be 0 again", 30*time.Second, func(context.Context) error {
		if out := n.MustRun("curl", "-s", "http://"+n.Address+":9842/metrics"); !strings.Contains(out, "\nweir_pods_without_networks 0\n") {
			return errors.New("it is not")
		}
		return nil
	})
}
