// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
)

// reclaimAfter lets the kernel finish with what it has just given back.
const reclaimAfter = 100 * time.Millisecond

// watchDevices restores devices that come back to the node when their pod's
// namespace ends, until ctx ends. Where the kernel had no room for an update it
// begins anew.
func (a *agent) watchDevices(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := a.watchOnce(ctx); err != nil {
			return fmt.Errorf("watching the node's interfaces: %w", err)
		}
	}
	return nil
}

// watchOnce begins with what happened before, and ends with ctx or the subscription.
func (a *agent) watchOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	ns := vnetns.NsHandle(a.plugin.Host.Fd())
	updates := make(chan netlink.LinkUpdate)
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{Namespace: &ns})
	if err != nil {
		cancel()
		return err
	}
	defer drain(updates)
	defer cancel()
	for a.reclaim(); ; {
		select {
		case <-ctx.Done():
			return nil
		case update, ok := <-updates:
			if !ok {
				return nil
			}
			// A device that was lent bears its name as its alias.
			if update.Link.Attrs().Alias != "" {
				a.reclaimSoon(ctx, updates)
			}
		}
	}
}

// drain lets the sender of updates come to its end.
func drain(updates <-chan netlink.LinkUpdate) {
	go func() {
		for range updates {
		}
	}()
}

// reclaimSoon takes what else comes meanwhile together.
func (a *agent) reclaimSoon(ctx context.Context, updates <-chan netlink.LinkUpdate) {
	timer := time.NewTimer(reclaimAfter)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-updates:
			if !ok {
				return
			}
		case <-timer.C:
			a.reclaim()
			return
		}
	}
}

func (a *agent) reclaim() {
	if err := a.plugin.Reclaim(a.locks.lock); err != nil {
		a.log.Error("reclaiming devices", "err", err)
	}
}
