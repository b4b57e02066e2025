// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"fmt"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weir-cni/weir/cni"
)

// Each step of an ADD fails in turn: all that was done before is undone, the error
// says which step it was, and once the cause is gone the pod gets its networks.
func TestNetnsEachStepFails(t *testing.T) {
	var many []object
	for i := range 17 {
		many = append(many, object{"address": fmt.Sprintf("192.168.122.%d/24", 50+i)})
	}
	n := newNode(t)
	playing := n.playing()
	fixed := func(fields object) object { return object{"type": "macvlan", "master": "eth1", "ipam": fields} }
	lan := fixed(n.hostLocal("10.99.0.0/16"))
	// Where a step needs a fault of the machine's, the default network's plugin, or
	// the one behind the native one, makes it.
	tests := []struct {
		name string
		// saboteur are fields of the default network's plugin.
		saboteur object
		plugins  []object
		// blocked is what is to be put back.
		blocked string
		code    uint
		want    []string
	}{
		{name: "create", plugins: []object{{"type": "macvlan", "master": "eth1", "mode": "passthru"}}, code: cni.CodeFailed,
			want: []string{"(net2)", "passthru"}},
		{name: "guard", saboteur: object{"remove": n.bpfDir + "/*-net2"}, plugins: []object{lan}, code: cni.CodeFailed,
			want: []string{"(net2)", "pinning the programs"}},
		{name: "assign", plugins: []object{fixed(object{"type": "host-local", "dataDir": n.path("leases"), "subnet": "10.98.0.0/30",
			"rangeStart": "10.98.0.1", "rangeEnd": "10.98.0.1", "gateway": "10.98.0.1"})}, code: cni.CodeFailed, want: []string{"(net2)", "addresses"}},
		{name: "allow", plugins: []object{fixed(object{"type": "static", "addresses": many})}, code: cni.CodeFailed,
			want: []string{"(net2)", "addresses"}},
		{name: "configure", plugins: []object{fixed(object{"type": "static", "addresses": many[:1],
			"routes": []object{{"dst": "203.0.113.0/24", "gw": "198.51.100.1"}}})}, code: cni.CodeFailed, want: []string{"configuring net2", "203.0.113.0/24"}},
		{name: "execute", plugins: []object{lan, withFields(playing, object{"fail": "ADD"})}, code: 131, want: []string{"(net2)", "out of luck"}},
		{name: "settle", plugins: []object{lan, withFields(playing, object{"unlink": true})}, code: cni.CodeFailed, want: []string{"(net2)", "net2"}},
		{name: "remember", saboteur: object{}, plugins: []object{lan, withFields(playing, object{"block": n.path("state/results")})},
			blocked: "state/results", code: cni.CodeFailed, want: []string{"(net2)", "results"}},
		{name: "record", plugins: []object{lan, withFields(playing, object{"block": n.path("state/sandboxes")})},
			blocked: "state/sandboxes", code: cni.CodeFailed, want: []string{"record"}},
		{name: "publish", plugins: []object{lan, withFields(playing, object{"block": n.path("state/network-status")})},
			blocked: "state/network-status", code: cni.CodeFailed, want: []string{"network status"}},
	}
	n.Network("first", macvlan(object{"ipam": n.hostLocal("10.97.0.0/16")}))
	n.Network("good", macvlan(nil))
	warmUp(n)
	idle := n.idle()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n.within(t)
			network := n.unique("lan")
			n.Network(network, listOf("1.0.0", test.plugins...))
			pod := n.Pod(n.unique("web"), "first,"+network)
			defer pod.Remove()
			before := n.with(idle, pod)
			add := n.of("ADD", pod)
			if test.saboteur != nil {
				add.config["delegates"] = []any{withFields(withFields(playing, test.saboteur), object{"cniVersion": "1.0.0", "name": "default"})}
			}
			_, failure := n.Call(add)
			if failure == nil {
				t.Fatal("ADD succeeded")
			}
			checkFailure(t, failure, test.code, test.want...)
			if test.blocked != "" {
				if err := unblock(n.path(test.blocked)); err != nil {
					t.Fatal(err)
				}
				if failure := n.Del(pod); failure != nil {
					t.Errorf("DEL once the cause is gone: %v", failure)
				}
			}
			n.mustBe(before)
			n.writeObject("pod-"+pod.Name, n.podObject(pod.Name, "first,good"))
			n.await("the pod to be mended", func() bool { return n.addsAndDeletes(pod) })
			n.mustBe(before)
		})
	}
}

// addsAndDeletes tells whether an ADD succeeds, and undoes it.
func (n *Node) addsAndDeletes(p *Pod) bool {
	n.tb.Helper()
	_, failure := n.Add(p)
	if failure != nil && failure.Code != types.ErrInvalidEnvironmentVariables {
		n.tb.Log(failure)
		return false
	}
	n.mustDel(p)
	return failure == nil
}
