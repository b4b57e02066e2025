// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/weir-cni/weir/cni"
)

// WatchMembers has nothing to begin: the folder is followed anyway.
func (s *Store) WatchMembers() {}

// MembersSynced tells that what the folder holds is known, as it is from the start.
func (s *Store) MembersSynced() bool { return true }

// OnMembers has changed called whenever the folder was looked at. It must return at once.
// It is to be called before Run.
func (s *Store) OnMembers(changed func()) error {
	s.looked = changed
	return nil
}

// Members yields what pods of other nodes are attached to: those whose manifest has a
// network status.
func (s *Store) Members(yield func(pod string, attached []cni.Attached) bool) {
	for k, pod := range s.current().pods {
		attached := cni.AttachedOf(pod.Annotations[nadv1.NetworkStatusAnnot])
		if len(attached) > 0 && !yield(k.namespace+"/"+k.name, attached) {
			return
		}
	}
}

// Networks yields every network.
func (s *Store) Networks(yield func(*nadv1.NetworkAttachmentDefinition) bool) {
	for _, network := range s.current().networks {
		if !yield(network) {
			return
		}
	}
}
