// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"os"
	"strings"
	"testing"
)

// The default network is a file, with plugins in the directory that bears its name, and
// every pod has a chain behind all of its networks: the reference's tuning plugin, which
// takes no place but behind another. A DEL needs none of the files.
func TestNetnsChainsInDirectories(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	idle := n.idle()
	for _, dir := range []string{"net.d/cluster", "net.d/everywhere"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(referencePlugins(t)+"/tuning", n.path("bin/tuning")); err != nil {
		t.Fatal(err)
	}
	n.Write("net.d/10-cluster.conflist", toJSON(t, object{"cniVersion": "1.1.0", "name": "cluster", "plugins": []object{
		{"type": "macvlan", "master": "eth0", "ipam": n.hostLocal("10.85.0.0/16")},
	}}), 0o600)
	n.Write("net.d/cluster/50-behind.conf", toJSON(t, n.playing()), 0o600)
	n.Write("net.d/everywhere/50-tuning.conf", `{"type":"tuning","sysctl":{"net.ipv4.tcp_keepalive_time":"77"}}`, 0o600)
	n.Write("net.d/everywhere/60-behind.conf", toJSON(t, n.playing()), 0o600)
	n.Network("lan", listOf("1.0.0", lanObject()))
	pod := n.Pod("web", "lan")
	before := n.with(idle, pod)
	call := func(command string) []byte {
		t.Helper()
		c := n.of(command, pod)
		c.config = object{
			"cniVersion": "1.1.0", "name": "weir", "type": "weir", "socket": n.socket(),
			"clusterNetwork": n.path("net.d/10-cluster.conflist"), "auxiliaryCNIChainName": "everywhere",
			"prevResult": object{"cniVersion": "1.1.0"},
		}
		out, failure := n.Call(c)
		if failure != nil {
			t.Fatalf("%s: %v", command, failure)
		}
		return out
	}
	call("ADD")
	pod.Do(func() error {
		value, err := os.ReadFile("/proc/sys/net/ipv4/tcp_keepalive_time")
		if strings.TrimSpace(string(value)) != "77" {
			t.Errorf("tcp_keepalive_time is %s", value)
		}
		return err
	})
	if got := commandsOf(n.notes()); got != "ADD eth0, ADD net2" {
		t.Errorf("ADD called %s", got)
	}
	status := n.networkStatus(pod)
	if len(status) != 2 || status[0].Name != "cluster" || status[1].Interface != "net1" {
		t.Errorf("network status %v", status)
	}
	call("CHECK")
	if got := commandsOf(n.notes()); got != "CHECK eth0" {
		t.Errorf("CHECK called %s", got)
	}
	if err := os.RemoveAll(n.path("net.d")); err != nil {
		t.Fatal(err)
	}
	call("DEL")
	if got := commandsOf(n.notes()); got != "DEL net2, DEL eth0" {
		t.Errorf("DEL called %s", got)
	}
	n.mustBe(before)
}
