// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"os"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/tests/lan"
)

// Plugins of the test's own, for the folder of executed plugins. Each notes the
// commands that it gets in a file beside it.
const (
	noting = `#!/bin/sh
echo "$CNI_COMMAND $CNI_IFNAME" >>"$0.calls"
cat >/dev/null
`
	// failing refuses every ADD with a code of its own.
	failing = noting + `[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","code":123,"msg":"out of luck","details":"none"}'
exit 1
`
	// waiting answers an ADD when it is let go.
	waiting = noting + `[ "$CNI_COMMAND" = ADD ] || exit 0
>"$0.arrived"
while [ ! -e "$0.go" ]; do sleep 0.02; done
echo '{"cniVersion":"1.0.0"}'
`
)

func (n *Node) plugin(name, script string) {
	n.tb.Helper()
	n.Write("bin/"+name, script, 0o755)
}

func (n *Node) calls(plugin string) string {
	data, _ := os.ReadFile(n.path("bin/" + plugin + ".calls"))
	return string(data)
}

// The second of two networks fails when the first and the default network are
// there already: all are undone.
func TestNetnsSecondNetworkFails(t *testing.T) {
	tests := []struct {
		name, networks string
		code           uint
		want           []string
	}{{
		name: "its range has no address left", networks: "tiny,tiny", code: cni.CodeFailed,
		want: []string{"/tiny (net2)", "ipam", "10.98.0.2", "no free address"},
	}, {
		name: "its address is in use", networks: `[{"name":"lan"},{"name":"lan","ips":["10.99.0.2"]}]`, code: cni.CodeFailed,
		want: []string{"/lan (net2)", "10.99.0.2", "in use"},
	}, {
		name: "its plugin fails", networks: "lan,failing", code: 123,
		want: []string{"/failing (net2)", "out of luck"},
	}, {
		name: "a passthru macvlan's master is taken", networks: "lan,passthru", code: cni.CodeFailed,
		want: []string{"/passthru (net2)", "passthru"},
	}}
	n := newNode(t)
	n.plugin("failing", failing)
	n.Network("lan", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
	n.Network("failing", config(object{"type": "failing"}, nil))
	n.Network("passthru", macvlan(object{"mode": "passthru"}))
	n.Network("tiny", macvlan(object{"ipam": object{
		"type": "host-local", "dataDir": n.path("leases"), "subnet": "10.98.0.0/30", "rangeStart": "10.98.0.2", "rangeEnd": "10.98.0.2",
	}}))
	warmUp(n)
	idle := n.idle()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n.within(t)
			pod := n.Pod(n.unique("web"), test.networks)
			defer pod.Remove()
			before := n.with(idle, pod)
			out, failure := n.Add(pod)
			if failure == nil {
				n.mustDel(pod)
				t.Fatalf("ADD succeeded: %s", out)
			}
			checkFailure(t, failure, test.code, append(test.want, "pod "+n.namespace+"/"+pod.Name)...)
			n.mustBe(before)
		})
	}
	if got := n.calls("failing"); got != "ADD net2\nDEL net2\n" {
		t.Errorf("the plugin that fails was called with %q", got)
	}
}

// A master vanishes after all was found right: the networks before are undone,
// the default network's plugin gets its DEL.
func TestNetnsMasterVanishes(t *testing.T) {
	n := newNode(t)
	n.plugin("waiting", waiting)
	n.Network("lan", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
	n.Network("second", macvlan(object{"master": "eth2"}))
	warmUp(n)
	idle := n.idle()
	lan.Join(t, n.machine, "eth2", n.outside, "eth2")

	pod := n.Pod("web", "lan,second")
	before := n.with(idle, pod)
	add := n.of("ADD", pod)
	add.config["delegates"] = []any{object{"cniVersion": "1.0.0", "name": "default", "type": "waiting"}}
	done := make(chan *types.Error, 1)
	go func() { done <- second(n.Call(add)) }()
	n.await("the plugin's ADD", func() bool { return exists(n.path("bin/waiting.arrived")) })
	if err := n.machine.Netlink().LinkDel(n.machine.Link("eth2")); err != nil {
		t.Fatal(err)
	}
	n.Write("bin/waiting.go", "", 0o600)
	failure := <-done
	if failure == nil {
		t.Fatal("ADD succeeded")
	}
	checkFailure(t, failure, cni.CodeFailed, "pod "+n.namespace+"/web", "/second (net2)", `master "eth2"`)
	if got := n.calls("waiting"); got != "ADD eth0\nDEL eth0\n" {
		t.Errorf("the default network's plugin was called with %q", got)
	}
	n.mustBe(before)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// await waits until something is so.
func (n *Node) await(what string, is func() bool) {
	n.tb.Helper()
	for began := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > settleFor {
			n.tb.Fatalf("waited %s in vain for %s", settleFor, what)
		}
	}
}

// Plugins of the reference kind are executed for the default network and for a
// secondary one, whose interface is guarded like weir's own.
func TestNetnsExecutedPlugins(t *testing.T) {
	n := newNode(t)
	n.reference("other-bridge", "bridge")
	n.reference("host-local", "host-local")
	bridge := func(name string) object {
		return object{"cniVersion": "1.0.0", "name": name, "type": "other-bridge", "bridge": name + "0", "isGateway": true,
			"ipam": n.hostLocal(map[string]string{"default": "10.85.0.0/16", "second": "10.86.0.0/16"}[name])}
	}
	n.Network("second", config(bridge("second"), nil))
	pod := n.Pod("web", "second")
	call := func(command string) call {
		c := n.of(command, pod)
		c.config["cniVersion"] = "1.0.0"
		c.config["delegates"] = []any{bridge("default")}
		return c
	}
	must := func(command string) []byte {
		t.Helper()
		out, failure := n.Call(call(command))
		if failure != nil {
			t.Fatalf("%s: %v", command, failure)
		}
		return out
	}
	// The plugins leave their bridges.
	must("ADD")
	must("DEL")
	before := n.with(n.idle(), pod)

	must("ADD")
	must("CHECK")
	a := n.Attachment(pod, "net1")
	if a.Type != "veth" || len(a.Addresses) != 1 || a.Hook == "" {
		t.Errorf("weirctl says %+v", a)
	}
	own := a.Addresses[0].Addr().String()
	n.awaitHook(pod)
	if answered := n.ping(n.machine, own, 4); answered != 4 {
		t.Errorf("%d of 4 pings to net1 were answered", answered)
	}
	if got := n.Attachment(pod, "net1").Transmit.Packets; got < 4 {
		t.Errorf("%d packets were counted", got)
	}
	for _, s := range spoofsOf(t, pod.Link("net1").Attrs().HardwareAddr) {
		pod.Send("net1", s.frame)
	}
	if got := n.Attachment(pod, "net1").Dropped; len(got) < 4 {
		t.Errorf("of spoofs, weirctl says %v", got)
	}
	must("DEL")
	n.mustBe(before)
	must("DEL")
	n.mustBe(before)
}
