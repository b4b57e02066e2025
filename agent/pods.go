// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"strings"
	"sync"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/kube"
	"github.com/weir-cni/weir/metrics"
	"github.com/weir-cni/weir/state"
)

const (
	// A pod that could not be followed is tried again, ever more slowly.
	retryFirst, retryMost = time.Second, 5 * time.Minute
	// followsMost bounds the pods that are followed at once.
	followsMost = 4
)

// reasonMissed is the reason of the event of a pod that came up without its networks.
const reasonMissed = "MissedNetworks"

// podFollower has sandboxes follow the annotations of their pods, and finds pods
// that have none of the networks that they ask for.
type podFollower struct {
	*changes[attachment.Pod]
	agent *agent
	store *kube.Store

	mu      sync.Mutex
	retries map[attachment.Pod]int
	missed  map[attachment.Pod]bool
}

func newPodFollower(a *agent, store *kube.Store) *podFollower {
	return &podFollower{
		changes: newChanges[attachment.Pod](), agent: a, store: store,
		retries: map[attachment.Pod]int{}, missed: map[attachment.Pod]bool{},
	}
}

// Missed counts the pods of the node that run without the networks that their
// annotation asks for.
func (f *podFollower) Missed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.missed)
}

// run follows until ctx ends.
func (f *podFollower) run(ctx context.Context) error { return f.gather(ctx, f.followAll) }

func (f *podFollower) followAll(ctx context.Context, changed map[attachment.Pod]bool) {
	records, err := f.agent.plugin.Records.List()
	if err != nil {
		f.agent.log.Error("reading the records", "err", err)
	}
	sandboxes := sandboxesOf(records)
	var group errgroup.Group
	group.SetLimit(followsMost)
	for pod := range changed {
		group.Go(func() error {
			f.followOne(ctx, pod, sandboxes[pod])
			return nil
		})
	}
	_ = group.Wait() // followOne says itself what is wrong
}

// followOne looks at the pod when no request works on its sandbox any more: what that
// request publishes is of the pod then.
func (f *podFollower) followOne(ctx context.Context, pod attachment.Pod, record *state.Record) {
	if record != nil {
		f.agent.registry.adding.Add(1)
		defer f.agent.registry.adding.Add(-1)
		defer f.agent.locks.lock(record.ContainerID)()
	}
	object := f.store.Known(pod)
	switch {
	case object == nil || kube.PodOf(object) != pod:
		f.forget(pod)
	case record == nil:
		f.judge(object)
	default:
		f.follow(ctx, object, record)
	}
}

// sandboxesOf finds the sandbox of each pod: of several the one that is whole.
func sandboxesOf(records []*state.Record) map[attachment.Pod]*state.Record {
	sandboxes := map[attachment.Pod]*state.Record{}
	for _, record := range records {
		if record.Chained == "" && (sandboxes[record.Pod] == nil || record.Phase == state.Ready) {
			sandboxes[record.Pod] = record
		}
	}
	return sandboxes
}

// forget drops what is remembered of a pod that is gone.
func (f *podFollower) forget(pod attachment.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.retries, pod)
	delete(f.missed, pod)
}

func (f *podFollower) follow(ctx context.Context, object *corev1.Pod, record *state.Record) {
	pod := kube.PodOf(object)
	done := f.agent.work.Begin(metrics.FollowPod)
	err := f.agent.plugin.Update(ctx, record.Key(), object)
	done(err)
	f.forgetMissed(pod)
	if err == nil {
		f.forget(pod)
		return
	}
	f.agent.log.Error("following a pod's annotation", "pod", pod.String(), "container_id", record.ContainerID, "err", err)
	f.retry(pod)
}

func (f *podFollower) forgetMissed(pod attachment.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.missed, pod)
}

func (f *podFollower) retry(pod attachment.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delay := min(retryFirst<<min(f.retries[pod], 16), retryMost)
	f.retries[pod]++
	time.AfterFunc(delay, func() { f.note(pod) })
}

// judge tells of a pod that is up and has no sandbox of weir's although it asks for
// networks: it came up while the runtime did not call weir.
func (f *podFollower) judge(object *corev1.Pod) {
	pod := kube.PodOf(object)
	if !asksForNetworks(object) || object.Status.PodIP == "" || object.Status.Phase != corev1.PodRunning || object.DeletionTimestamp != nil {
		f.forget(pod)
		return
	}
	f.mu.Lock()
	known := f.missed[pod]
	f.missed[pod] = true
	f.mu.Unlock()
	if known {
		return
	}
	const message = "The pod came up while weir was not in place, without the networks of its annotation. Delete it, so that it is created anew with them"
	f.agent.log.Warn("a pod has none of its networks", "pod", pod.String())
	f.store.Report(pod, cni.Event{Warning: true, Reason: reasonMissed, Message: message})
}

func asksForNetworks(object *corev1.Pod) bool {
	text := strings.TrimSpace(object.Annotations[nadv1.NetworkAttachmentAnnot])
	return text != "" && text != "[]" && !object.Spec.HostNetwork
}
