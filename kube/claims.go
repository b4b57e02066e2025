// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/state"
)

// ipamClaims is the resource of IPAMClaims (NPWG specification 1.3, section 8).
func ipamClaims() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1alpha1", Resource: "ipamclaims"}
}

// claims reads and writes IPAMClaims, of which many a cluster has not even the type. They
// are watched, as metadata, from when the node holds addresses for one.
type claims struct {
	objects dynamic.NamespaceableResourceInterface
	watch   cache.SharedIndexInformer
	wanted  chan struct{}
	once    sync.Once
}

var _ cni.Claims = (*Store)(nil)

// newClaims makes the clients.
func newClaims(config *rest.Config) (*claims, error) {
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of IPAMClaims: %w", err)
	}
	all, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of metadata: %w", err)
	}
	return claimsOf(objects, all), nil
}

func claimsOf(objects dynamic.Interface, all metadata.Interface) *claims {
	informer := metadatainformer.NewFilteredMetadataInformer(all, ipamClaims(), metav1.NamespaceAll, 0, cache.Indexers{}, nil)
	return &claims{objects: objects.Resource(ipamClaims()), watch: informer.Informer(), wanted: make(chan struct{})}
}

// run watches until ctx ends, once somebody wants that.
func (c *claims) run(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-c.wanted:
		c.watch.RunWithContext(ctx)
	}
}

// WatchClaims begins to watch IPAMClaims.
func (s *Store) WatchClaims() { s.claims.once.Do(func() { close(s.claims.wanted) }) }

// OnClaimGone has gone called whenever a claim may be gone, once they are watched. It must
// return at once. It is to be called before Run.
func (s *Store) OnClaimGone(gone func()) error {
	_, err := s.claims.watch.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(any) { gone() }})
	return errors.Join(err,
		s.claims.watch.SetTransform(trimmed),
		s.claims.watch.SetWatchErrorHandlerWithContext(s.watchFailed("IPAMClaims")))
}

// IsClaimDeleted tells a claim that the watch would know if it were there. Before the
// watch knows all claims it is false.
func (s *Store) IsClaimDeleted(claim *state.Claim) bool {
	if !s.claims.watch.HasSynced() {
		return false
	}
	object, found, err := s.claims.watch.GetStore().GetByKey(claim.Namespace + "/" + claim.Name)
	if err != nil {
		return false
	}
	known, ok := object.(metav1.Object)
	return !found || ok && string(known.GetUID()) != claim.UID
}

// ipamClaim is what of an IPAMClaim is read.
type ipamClaim struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Network    string   `json:"network"`
		IPRequests []string `json:"ipRequests"`
	} `json:"spec"`
	Status struct {
		IPs      []string `json:"ips"`
		OwnerPod string   `json:"ownerPod"`
	} `json:"status"`
}

// Claim reads a claim. The error is cni.ErrNotFound when there is none.
func (s *Store) Claim(ctx context.Context, namespace, name string) (*cni.IPAMClaim, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	object, err := s.claims.objects.Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, asking("IPAMClaim", namespace, name, err)
	}
	claim, err := claimOf(object)
	if err != nil {
		return nil, fmt.Errorf("IPAMClaim %s/%s: %w", namespace, name, err)
	}
	return claim, nil
}

func claimOf(object *unstructured.Unstructured) (*cni.IPAMClaim, error) {
	var c ipamClaim
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &c); err != nil {
		return nil, err
	}
	return &cni.IPAMClaim{
		Namespace: c.Metadata.Namespace, Name: c.Metadata.Name, UID: string(c.Metadata.UID),
		Network: c.Spec.Network, Requests: c.Spec.IPRequests, IPs: c.Status.IPs, OwnerPod: c.Status.OwnerPod,
	}, nil
}

// SetClaim patches the addresses of a claim and the pod that has them. The error is
// cni.ErrNotFound when the claim, the one with this UID, is not there any more.
func (s *Store) SetClaim(ctx context.Context, claim *state.Claim, ips []string, pod string) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": claim.UID},
		"status":   map[string]any{"ips": ips, "ownerPod": pod},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	_, err = s.claims.objects.Namespace(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return &notFoundError{fmt.Sprintf("IPAMClaim %s with UID %s any more", claim, claim.UID)}
	case apierrors.IsInvalid(err) || apierrors.IsForbidden(err):
		return err
	}
	return &awayError{err}
}
