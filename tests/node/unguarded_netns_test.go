// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"testing"

	"github.com/weir-cni/weir/cni"
)

// A device that a program in the pod drives by itself has no interface, and so no guard.
// It is seen like any other attachment, until it is gone.
func TestNetnsAttachmentWithoutInterface(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	idle := n.idle()
	n.Network("fast", listOf("1.0.0", n.playing()))
	pod := n.Pod("router", "fast")
	before := n.with(idle, pod)
	n.mustAdd(pod)
	if a := n.Attachment(pod, "net1"); a.Hook != "" {
		t.Errorf("the attachment is %+v", a)
	}
	n.mustDel(pod)
	if all, err := n.Attachments(); err != nil || len(all) != 0 {
		t.Errorf("after DEL: %v, %v", all, err)
	}
	n.notes()
	n.mustDel(pod)
	if got := commandsOf(n.notes()); got != "" {
		t.Errorf("another DEL called %s", got)
	}
	n.mustBe(before)
}

// Rules that nothing would keep are refused, also where the guard is not required.
func TestNetnsRulesWithoutInterface(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	idle := n.idle()
	device := n.playing()
	device["cniVersion"] = "1.0.0"
	device["weir"] = object{"enforcement": "bestEffort", "rules": []object{{"action": "deny"}}}
	bad := badInput{
		networks: theNetwork, defined: map[string]string{theNetwork: toJSON(t, device)},
		code: cni.CodeFailed, want: []string{"/lan", "its rules need the guard", "net1 has no interface"},
	}
	bad.run(t, n, idle, func(*Pod) {})
}
