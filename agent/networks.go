// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/state"
)

// networkFollower has the guards of attachments follow what their networks say under the
// key weir.
type networkFollower struct {
	agent *agent
	wake  chan struct{}

	mu      sync.Mutex
	changed map[string]bool
}

func newNetworkFollower(a *agent) *networkFollower {
	return &networkFollower{agent: a, wake: make(chan struct{}, 1), changed: map[string]bool{}}
}

// note remembers that a network may have changed.
func (f *networkFollower) note(network string) {
	f.mu.Lock()
	f.changed[network] = true
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *networkFollower) take() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.changed
	f.changed = map[string]bool{}
	return changed
}

// run follows until ctx ends.
func (f *networkFollower) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(gatherFor):
		}
		f.followAll(ctx, f.take())
	}
}

// followAll changes one guard after the other.
func (f *networkFollower) followAll(ctx context.Context, networks map[string]bool) {
	records, err := f.agent.plugin.Records.List()
	if err != nil {
		f.agent.log.Error("reading the records", "err", err)
	}
	for _, record := range records {
		if hasAny(record, networks) {
			f.followOne(ctx, record, networks)
		}
	}
}

func hasAny(record *state.Record, networks map[string]bool) bool {
	for _, d := range record.Delegates {
		if d.Attachment != nil && networks[d.Network] {
			return true
		}
	}
	return false
}

func (f *networkFollower) followOne(ctx context.Context, record *state.Record, networks map[string]bool) {
	adapted, err := f.adapt(ctx, record, networks)
	if err != nil {
		f.agent.log.Error("a guard stays as it is, and not as its network has it", "pod", record.Pod.String(), "err", err)
	}
	for _, a := range adapted {
		f.change(ctx, a)
	}
}

func (f *networkFollower) adapt(ctx context.Context, record *state.Record, networks map[string]bool) ([]attachment.Attachment, error) {
	defer f.agent.locks.lock(record.ContainerID)()
	return f.agent.plugin.Adapt(ctx, record.Key(), networks)
}

// change replaces a guard by what its record now says.
func (f *networkFollower) change(ctx context.Context, a attachment.Attachment) {
	log := f.agent.log.With("pod", a.Pod.String(), "network", a.Network, "netif", a.Interface)
	if err := f.agent.registry.promoteOne(ctx, a); err != nil {
		log.Error("a guard stays as it is, and not as its network has it", "err", err)
		f.agent.registry.report(a.Pod, cni.Event{Warning: true, Reason: cni.ReasonGuardUnchanged, Message: fmt.Sprintf(
			"The guard of %s stays as it is: network %s: %v", a.Interface, a.Network, err)})
		return
	}
	f.agent.registry.republish(a)
	log.Info("a guard follows its network")
	f.agent.registry.report(a.Pod, cni.Event{Reason: cni.ReasonGuardChanged, Message: fmt.Sprintf(
		"The guard of %s follows the change of network %s", a.Interface, a.Network)})
}
