// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/weir-cni/weir/kube"
	"github.com/weir-cni/weir/state"
)

// claimsEvery is how often leases are looked at whose claim is gone and that a pod may
// have used until now.
const claimsEvery = 30 * time.Second

// claimKeeper gives the addresses of IPAMClaims back once they are deleted. Claims are
// watched from when the node holds addresses for one.
type claimKeeper struct {
	*kube.Store
	agent *agent
	wake  chan struct{}
}

func newClaimKeeper(a *agent, store *kube.Store) *claimKeeper {
	return &claimKeeper{Store: store, agent: a, wake: make(chan struct{}, 1)}
}

// SetClaim is the first that is heard of a claim that the node holds addresses for.
func (k *claimKeeper) SetClaim(ctx context.Context, claim *state.Claim, ips []string, pod string) error {
	k.WatchClaims()
	return k.Store.SetClaim(ctx, claim, ips, pod)
}

// note remembers that a claim may be gone.
func (k *claimKeeper) note() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run releases until ctx ends.
func (k *claimKeeper) run(ctx context.Context) error {
	tick := time.NewTicker(claimsEvery)
	defer tick.Stop()
	for {
		k.release(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-k.wake:
		}
	}
}

func (k *claimKeeper) release(ctx context.Context) {
	leases, err := k.agent.plugin.Leases.List()
	if err != nil {
		k.agent.log.Error("reading the leases of IPAMClaims", "err", err)
	}
	if len(leases) == 0 {
		return
	}
	k.WatchClaims()
	if err := k.agent.plugin.ReleaseClaims(ctx, k.IsClaimDeleted); err != nil {
		k.agent.log.Error("giving back the addresses of IPAMClaims that are deleted", "err", err)
	}
}
