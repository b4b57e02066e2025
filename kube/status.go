// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
)

// patchBackoff spreads the attempts to write a status over some six seconds.
func patchBackoff() wait.Backoff {
	return wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 7}
}

// SetNetworkStatus patches the annotation k8s.v1.cni.cncf.io/network-status of a pod
// and nothing else, so that what others write at the same time stays. A nil status
// does nothing: the annotation goes with the pod. The error is cni.ErrNotFound when
// the pod, the one with this UID, is not there any more.
func (s *Store) SetNetworkStatus(ctx context.Context, pod attachment.Pod, status []cni.NetworkStatus) error {
	if status == nil {
		return nil
	}
	patch, err := statusPatch(pod, status)
	if err != nil {
		return err
	}
	var last error
	err = wait.ExponentialBackoffWithContext(ctx, patchBackoff(), func(ctx context.Context) (bool, error) {
		last = s.patchStatus(ctx, pod, patch)
		if last != nil && isFinal(last) {
			return false, last
		}
		return last == nil, nil
	})
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(last) || apierrors.IsConflict(last):
		return &notFoundError{fmt.Sprintf("pod %s with UID %s any more", pod, pod.UID)}
	case last == nil:
		last = err
	}
	return &awayError{fmt.Errorf("asking the Kubernetes API to patch the status of pod %s: %w", pod, last)}
}

func (s *Store) patchStatus(ctx context.Context, pod attachment.Pod, patch []byte) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	after, err := s.core.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	kept, err := trimmed(after)
	s.pods.Mutation(kept)
	return err
}

// isFinal tells the answers that another attempt would not change.
func isFinal(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) ||
		apierrors.IsBadRequest(err)
}

// statusPatch is a JSON merge patch (RFC 7386) that fails for a pod with another UID.
func statusPatch(pod attachment.Pod, status []cni.NetworkStatus) ([]byte, error) {
	text, err := statusText(status)
	if err != nil {
		return nil, err
	}
	metadata := map[string]any{"annotations": map[string]string{nadv1.NetworkStatusAnnot: text}}
	if pod.UID != "" {
		metadata["uid"] = pod.UID
	}
	return json.Marshal(map[string]any{"metadata": metadata})
}

// statusText is laid out as Multus does it, for people who read it with kubectl.
func statusText(status []cni.NetworkStatus) (string, error) {
	entries := make([]string, len(status))
	for i := range status {
		entry, err := json.MarshalIndent(&status[i], "", "    ")
		if err != nil {
			return "", fmt.Errorf("writing the network status: %w", err)
		}
		entries[i] = string(entry)
	}
	return "[" + strings.Join(entries, ",") + "]", nil
}
