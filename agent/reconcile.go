// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"
	"path/filepath"

	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/metrics"
	"github.com/weir-cni/weir/state"
)

// reconcile takes over what an earlier agent left: it opens the guards of every
// sandbox that is whole, and undoes those that are not.
func (a *agent) reconcile(ctx context.Context) {
	records, err := a.plugin.Records.List()
	if err != nil {
		a.log.Error("reading the records of an earlier agent", "err", err)
	}
	known := map[string]bool{loader.RingDir: true}
	for _, record := range records {
		if record.Phase == state.Ready {
			a.adopt(record)
		} else if err := a.discard(ctx, record); err != nil {
			a.log.Error("undoing an unfinished request of an earlier agent",
				"container_id", record.ContainerID, "pod", record.Pod.String(), "err", err)
		}
		for _, d := range record.Delegates {
			if d.Attachment != nil {
				known[d.Attachment.PinDir] = true
			}
		}
	}
	if err := a.registry.sockets.Forget(); err != nil {
		a.log.Error("forgetting the sockets of pods that are gone", "err", err)
	}
	if err := a.registry.masters.Forget(); err != nil {
		a.log.Error("forgetting the attachments on masters that are gone", "err", err)
	}
	a.reportStrays(known)
}

func (a *agent) discard(ctx context.Context, record *state.Record) error {
	done := a.work.Begin(metrics.Discard)
	err := a.plugin.Discard(ctx, record)
	done(err)
	return err
}

func (a *agent) adopt(record *state.Record) {
	for _, d := range record.Delegates {
		if d.Attachment == nil {
			continue
		}
		done := a.work.Begin(metrics.Adopt)
		err := a.registry.adopt(*d.Attachment)
		done(err)
		if err != nil {
			a.log.Error("taking over the guard of an earlier agent", "pod", record.Pod.String(),
				"network", d.Network, "netif", d.Interface, "err", err)
		}
	}
}

// reportStrays names pins that no record speaks of. They may guard a live pod
// whose record was lost, so they are left alone; an empty directory guards
// nothing and goes.
func (a *agent) reportStrays(known map[string]bool) {
	entries, err := os.ReadDir(a.options.BPFDir)
	if err != nil {
		a.log.Error("listing the pins", "err", err)
		return
	}
	for _, entry := range entries {
		if known[entry.Name()] || !entry.IsDir() {
			continue
		}
		path := filepath.Join(a.options.BPFDir, entry.Name())
		if os.Remove(path) != nil {
			a.log.Warn("pins without a record: they are left in force", "path", path)
		}
	}
}
