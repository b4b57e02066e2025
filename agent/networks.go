// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/metrics"
	"github.com/weir-cni/weir/state"
)

// networkFollower has the guards of attachments follow what their networks say under the
// key weir.
type networkFollower struct {
	*changes[string] // of networks
	agent            *agent
}

func newNetworkFollower(a *agent) *networkFollower {
	return &networkFollower{newChanges[string](), a}
}

// run follows until ctx ends.
func (f *networkFollower) run(ctx context.Context) error { return f.gather(ctx, f.followAll) }

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
	done := f.agent.work.Begin(metrics.FollowNetwork)
	adapted, err := f.adapt(ctx, record, networks)
	done(err)
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
