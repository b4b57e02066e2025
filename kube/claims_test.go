// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/state"
)

func claimObject(name, uid string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": "IPAMClaim",
		"metadata": map[string]any{"namespace": "pods", "name": name, "uid": uid},
		"spec":     map[string]any{"network": "lan", "interface": "net1", "ipRequests": []any{"192.0.2.9/24"}},
		"status":   map[string]any{"ips": []any{"192.0.2.7/24"}, "ownerPod": "vm-1"},
	}}
}

func TestClaim(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	if err := c.objects.Tracker().Create(ipamClaims(), claimObject("vm", "1"), "pods"); err != nil {
		t.Fatal(err)
	}
	got, err := c.Claim(t.Context(), "pods", "vm")
	if err != nil {
		t.Fatal(err)
	}
	want := &cni.IPAMClaim{
		Namespace: "pods", Name: "vm", UID: "1", Network: "lan", Requests: []string{"192.0.2.9/24"}, IPs: []string{"192.0.2.7/24"}, OwnerPod: "vm-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claim (-want +got):\n%s", diff)
	}
	if _, err := c.Claim(t.Context(), "pods", "other"); !errors.Is(err, cni.ErrNotFound) {
		t.Errorf("another: %v", err)
	}
	c.objects.PrependReactor("get", "ipamclaims", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("no answer") })
	if _, err := c.Claim(t.Context(), "pods", "vm"); !errors.Is(err, cni.ErrAway) {
		t.Errorf("an API server that is away: %v", err)
	}
}

func TestSetClaim(t *testing.T) {
	t.Parallel()
	resource := schema.GroupResource{Group: "k8s.cni.cncf.io", Resource: "ipamclaims"}
	tests := []struct {
		name  string
		fails error
		want  error
	}{
		{"written", nil, nil},
		{"gone", apierrors.NewNotFound(resource, "vm"), cni.ErrNotFound},
		{"created anew", apierrors.NewConflict(resource, "vm", errors.New("another UID")), cni.ErrNotFound},
		{"away", errors.New("no answer"), cni.ErrAway},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			var got map[string]any
			c.objects.PrependReactor("patch", "ipamclaims", func(action k8stesting.Action) (bool, runtime.Object, error) {
				patch := action.(k8stesting.PatchAction)
				if patch.GetSubresource() != "status" || patch.GetPatchType() != types.MergePatchType || patch.GetNamespace() != "pods" {
					t.Errorf("it asked for %v", patch)
				}
				if err := json.Unmarshal(patch.GetPatch(), &got); err != nil {
					t.Error(err)
				}
				return true, claimObject("vm", "1"), test.fails
			})
			claim := &state.Claim{Namespace: "pods", Name: "vm", UID: "1"}
			if err := c.SetClaim(t.Context(), claim, []string{"192.0.2.7/24"}, "web"); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			want := map[string]any{
				"metadata": map[string]any{"uid": "1"},
				"status":   map[string]any{"ips": []any{"192.0.2.7/24"}, "ownerPod": "web"},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("patch (-want +got):\n%s", diff)
			}
		})
	}
}

// Claims are watched only once somebody wants it, and a claim is deleted only when the
// watch knows.
func TestIsClaimDeleted(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	object := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "k8s.cni.cncf.io/v1alpha1", Kind: "IPAMClaim"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "pods", Name: "vm", UID: "1"},
	}
	if err := c.all.Tracker().Create(ipamClaims(), object, "pods"); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{}, 1)
	if err := c.OnClaimGone(func() { gone <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	c.run(t)
	claim := &state.Claim{Namespace: "pods", Name: "vm", UID: "1"}
	another := &state.Claim{Namespace: "pods", Name: "vm", UID: "0"}
	if c.IsClaimDeleted(another) || len(c.all.Actions()) > 0 {
		t.Errorf("before anybody watches: %v", c.all.Actions())
	}
	c.WatchClaims()
	c.WatchClaims()
	await(t, "the watch of claims", c.claims.watch.HasSynced)
	if c.IsClaimDeleted(claim) || !c.IsClaimDeleted(another) {
		t.Error("the claim is there, and not the one of before")
	}
	if err := c.all.Tracker().Delete(ipamClaims(), "pods", "vm"); err != nil {
		t.Fatal(err)
	}
	<-gone
	if !c.IsClaimDeleted(claim) {
		t.Error("the claim is deleted")
	}
}
