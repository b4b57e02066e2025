// SPDX-License-Identifier: Apache-2.0

package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
)

// component is the source of weir's events.
const component = "weir"

// Bounds on the events of one pod: a burst for as many networks as a pod may have,
// then one in so many seconds. Events that say the same are counted, not repeated.
const (
	eventsBurst     = 50
	eventsPerSecond = 1.0 / 60
)

func newRecorder(node string) (record.EventBroadcaster, record.EventRecorder) {
	broadcaster := record.NewBroadcasterWithCorrelatorOptions(record.CorrelatorOptions{BurstSize: eventsBurst, QPS: eventsPerSecond})
	return broadcaster, broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component, Host: node})
}

// startEvents begins to write events, and returns what ends it.
func (s *Store) startEvents() (stop func()) {
	return s.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.core.CoreV1().Events("")}).Stop
}

// ReportNode writes an event of the node.
func (s *Store) ReportNode(e cni.Event) {
	// The kubelet's own events name a node by its name for want of a UID, and so kubectl
	// looks for them.
	s.write(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: s.node, UID: types.UID(s.node)}, e)
}

// Report writes an event of a pod. It does not wait: where the API server is slow,
// events are late, and lost when too many wait.
func (s *Store) Report(pod attachment.Pod, e cni.Event) {
	s.write(&corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID),
	}, e)
}

func (s *Store) write(object *corev1.ObjectReference, e cni.Event) {
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	s.recorder.Event(object, kind, e.Reason, e.Message)
}
