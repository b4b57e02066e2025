// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// Node knows the devices of the pods of one node.
type Node struct {
	// Name is the node's, as its ResourceSlices have it.
	Name    string
	Kubelet *Kubelet
	// Claims may be nil where no cluster has any.
	Claims ClaimReader
}

// Devices are all those of a pod, whoever gave it them.
func (n *Node) Devices(ctx context.Context, pod *corev1.Pod) (IDs, error) {
	ids, err := n.Kubelet.Devices(ctx, pod.Namespace, pod.Name)
	if err != nil || n.Claims == nil || !hasClaims(pod) {
		return ids, err
	}
	claimed, err := Claimed(ctx, n.Claims, pod, n.Name)
	if err != nil {
		return nil, err
	}
	ids.addAll(claimed)
	return ids, nil
}
