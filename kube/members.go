// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-cni/weir/cni"
)

// members is what all pods of the cluster are attached to. They are watched, as metadata,
// from when a network of the node keeps its members apart.
type members struct {
	watch  cache.SharedIndexInformer
	wanted chan struct{}
	once   sync.Once
}

func newMembers(config *rest.Config) (*members, error) {
	all, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of metadata: %w", err)
	}
	return membersOf(all), nil
}

func membersOf(all metadata.Interface) *members {
	informer := metadatainformer.NewFilteredMetadataInformer(all, corev1.SchemeGroupVersion.WithResource("pods"),
		metav1.NamespaceAll, 0, cache.Indexers{}, attachedPods)
	return &members{watch: informer.Informer(), wanted: make(chan struct{})}
}

// attachedPods leaves out pods whose networks are gone for good although they keep their
// status.
func attachedPods(options *metav1.ListOptions) {
	options.FieldSelector = "status.phase!=" + string(corev1.PodSucceeded) + ",status.phase!=" + string(corev1.PodFailed)
}

// attachedPod is what is kept of a pod.
type attachedPod struct {
	metav1.ObjectMeta
	attached []cni.Attached
}

// withoutTheRest keeps of a pod's metadata what is needed, some hundred bytes.
func withoutTheRest(object any) (any, error) {
	pod, err := meta.Accessor(object)
	if err != nil {
		return object, nil
	}
	if _, done := object.(*attachedPod); done {
		return object, nil
	}
	return &attachedPod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.GetNamespace(), Name: pod.GetName(), UID: pod.GetUID(), ResourceVersion: pod.GetResourceVersion(),
		},
		attached: cni.AttachedOf(pod.GetAnnotations()[nadv1.NetworkStatusAnnot]),
	}, nil
}

// run watches until ctx ends, once somebody wants that.
func (m *members) run(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-m.wanted:
		m.watch.RunWithContext(ctx)
	}
}

// WatchMembers begins to watch what all pods of the cluster are attached to.
func (s *Store) WatchMembers() { s.members.once.Do(func() { close(s.members.wanted) }) }

// MembersSynced tells that what all pods are attached to is known, and all networks.
func (s *Store) MembersSynced() bool {
	return s.members.watch.HasSynced() && s.networkCache.HasSynced()
}

// OnMembers has changed called whenever what a pod is attached to may have changed, once that
// is watched, or a network has. It must return at once. It is to be called before Run.
func (s *Store) OnMembers(changed func()) error {
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() }, UpdateFunc: func(any, any) { changed() }, DeleteFunc: func(any) { changed() },
	}
	_, err := s.members.watch.AddEventHandler(handler)
	_, errNetworks := s.networkCache.AddEventHandler(handler)
	return errors.Join(err, errNetworks,
		s.members.watch.SetTransform(withoutTheRest),
		s.members.watch.SetWatchErrorHandlerWithContext(s.watchFailed("pods of all nodes")))
}

// Members yields what each pod of the cluster is attached to, once that is watched.
func (s *Store) Members(yield func(pod string, attached []cni.Attached) bool) {
	for _, object := range s.members.watch.GetStore().List() {
		pod, ok := object.(*attachedPod)
		if ok && len(pod.attached) > 0 && !yield(pod.Namespace+"/"+pod.Name, pod.attached) {
			return
		}
	}
}

// MembersOf is what a pod is attached to by the watch.
func (s *Store) MembersOf(namespace, name string) []cni.Attached {
	object, _, _ := s.members.watch.GetStore().GetByKey(namespace + "/" + name)
	if pod, ok := object.(*attachedPod); ok {
		return pod.attached
	}
	return nil
}

// Networks yields every network of the cluster that the watch knows.
func (s *Store) Networks(yield func(*nadv1.NetworkAttachmentDefinition) bool) {
	for _, object := range s.networkCache.GetStore().List() {
		if network, ok := object.(*nadv1.NetworkAttachmentDefinition); ok && !yield(network) {
			return
		}
	}
}
