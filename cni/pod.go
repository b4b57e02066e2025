// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/containernetworking/cni/pkg/types"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/attachment"
)

// podArgs are the CNI_ARGS by which a Kubernetes runtime names the pod.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE          types.UnmarshallableString
	K8S_POD_NAME               types.UnmarshallableString
	K8S_POD_UID                types.UnmarshallableString
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString
}

// PodOf is the pod that a request's CNI_ARGS name; empty when they name none.
func PodOf(args string) (attachment.Pod, error) {
	pod := podArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args, &pod); err != nil {
		return attachment.Pod{}, newError(types.ErrInvalidEnvironmentVariables, fmt.Errorf("reading CNI_ARGS %q: %w", args, err))
	}
	return attachment.Pod{
		Namespace: string(pod.K8S_POD_NAMESPACE),
		Name:      string(pod.K8S_POD_NAME),
		UID:       string(pod.K8S_POD_UID),
	}, nil
}

// findPod is the pod as its store has it, or an empty one where the request is of
// no pod.
func (p *Plugin) findPod(ctx context.Context, pod attachment.Pod) (*corev1.Pod, error) {
	if pod.Name == "" {
		return &corev1.Pod{}, nil
	}
	object, err := p.Networks.Pod(ctx, pod)
	switch {
	case err != nil:
		return nil, newError(types.ErrTryAgainLater, fmt.Errorf("looking the pod up: %w", err))
	case pod.UID != "" && object.UID != "" && string(object.UID) != pod.UID && !IsStatic(object, pod.UID):
		return nil, newError(types.ErrTryAgainLater,
			fmt.Errorf("the runtime asks for the pod with UID %s, the one that is there has %s", pod.UID, object.UID))
	}
	return object, nil
}

// staticHash is the annotation in which the kubelet names a static pod, one that
// it has from a file, by the UID that it gives it itself. The pod's image in the API
// has another.
const staticHash = "kubernetes.io/config.hash"

// IsStatic tells that a pod is the image in the API of the static pod with the UID.
func IsStatic(pod *corev1.Pod, uid string) bool {
	return uid != "" && pod.Annotations[staticHash] == uid
}

// defaultNetworkAnnotation names the network that a pod has for its default one, as
// with Multus.
const defaultNetworkAnnotation = "v1.multus-cni.io/default-network"

var errOneDefault = errors.New("a pod has one default network")

// wishes are what a pod's annotations say of its networks.
type wishes struct {
	// cluster is in place of the cluster's default network; nil for that one.
	cluster  *Selection
	networks []Selection
}

func wishesOf(annotations map[string]string, podNamespace string, config *Config) (*wishes, error) {
	networks, err := ParseSelections(annotations[nadv1.NetworkAttachmentAnnot], podNamespace)
	if err != nil {
		return nil, err
	}
	instead, err := parseSelections(defaultNetworkAnnotation, annotations[defaultNetworkAnnotation], config.MultusNamespace)
	switch {
	case err != nil:
		return nil, err
	case len(instead) > 1:
		return nil, &SelectionError{defaultNetworkAnnotation, 2, instead[1].Name, "", errOneDefault}
	case len(instead) == 0:
		return &wishes{networks: networks}, nil
	}
	return &wishes{cluster: &instead[0], networks: networks}, nil
}

// joinedMaps has what either has; what is in the second goes before.
func joinedMaps(a, b map[string]any) map[string]any {
	if len(b) == 0 {
		return a
	}
	joined := maps.Clone(a)
	if joined == nil {
		joined = map[string]any{}
	}
	maps.Copy(joined, b)
	return joined
}
