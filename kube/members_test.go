// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/segment"
)

const isolatedStatus = `[{"name":"cbr0","interface":"eth0","ips":["10.244.0.7"],"default":true},
{"name":"pods/lan","interface":"net1","ips":["192.0.2.7","2001:db8::7","nonsense"],"mac":"02:42:ac:11:00:07"},
{"name":"pods/bare","interface":"net2"}]`

func attachedMetadata(name, status string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "pods", Name: name, UID: "1", Annotations: map[string]string{nadv1.NetworkStatusAnnot: status, "other": "x"},
			Labels: map[string]string{"a": "b"},
		},
	}
}

func addresses(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// What pods are attached to is asked for only when somebody wants it, and followed from
// then on.
func TestMembersAreFollowed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var changes atomic.Int32
	if err := c.OnMembers(func() { changes.Add(1) }); err != nil {
		t.Fatal(err)
	}
	pods := c.all.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace("pods")
	if err := c.all.Tracker().Add(attachedMetadata("web", isolatedStatus)); err != nil {
		t.Fatal(err)
	}
	c.run(t)
	if len(c.all.Actions()) != 0 || c.MembersSynced() {
		t.Errorf("asked for %v before anybody wanted it", c.all.Actions())
	}
	c.WatchMembers()
	c.WatchMembers()
	await(t, "the members", c.MembersSynced)
	mac, _ := net.ParseMAC("02:42:ac:11:00:07")
	want := []cni.Attached{
		{Network: "pods/lan", Member: segment.Member{MAC: mac, Addresses: addresses("192.0.2.7", "2001:db8::7")}},
		{Network: "pods/bare"},
	}
	compare := cmpopts.EquateComparable(netip.Addr{})
	if diff := cmp.Diff(want, c.MembersOf("pods", "web"), compare); diff != "" {
		t.Errorf("the pod is attached to (-want +got):\n%s", diff)
	}
	if err := c.all.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), attachedMetadata("web", `[{"name":"pods/lan","ips":["192.0.2.8"]}]`), "pods"); err != nil {
		t.Fatal(err)
	}
	await(t, "another address", func() bool {
		now := c.MembersOf("pods", "web")
		return len(now) == 1 && cmp.Equal(now[0].Addresses, addresses("192.0.2.8"), compare)
	})
	if err := pods.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the pod to be gone", func() bool { return c.MembersOf("pods", "web") == nil })
	c.Members(func(pod string, _ []cni.Attached) bool {
		t.Errorf("there is still %s", pod)
		return true
	})
	await(t, "every change to be told", func() bool { return changes.Load() >= 3 })
}

// What another annotation holds, or none, is nothing.
func TestMembersOfBadStatus(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"", "[", "{}", "null", `[{"name":7}]`, `[{"name":"pods/lan","ips":"192.0.2.1"}]`} {
		kept, err := withoutTheRest(attachedMetadata("web", status))
		if pod, ok := kept.(*attachedPod); err != nil || !ok || len(pod.attached) > 0 || len(pod.Labels)+len(pod.Annotations) > 0 {
			t.Errorf("of %q there is kept %+v, %v", status, kept, err)
		}
	}
}

// Of pods that have come to their end the addresses may be others' by now.
func TestMembersAreOfPodsThatRun(t *testing.T) {
	t.Parallel()
	var options metav1.ListOptions
	attachedPods(&options)
	if want := "status.phase!=Succeeded,status.phase!=Failed"; options.FieldSelector != want {
		t.Errorf("asked for %q, want %q", options.FieldSelector, want)
	}
}
