// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weir-cni/weir/hostdevice"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// Reclaim restores devices that the kernel gave back to the node because their pod's
// namespace has ended, without waiting for DEL. Each container is locked meanwhile.
func (p *Plugin) Reclaim(lock Lock) error {
	records, err := p.Records.List()
	errs := []error{err}
	for _, record := range records {
		if lends(record) {
			errs = append(errs, p.reclaimFrom(record.ContainerID, record.Key(), lock))
		}
	}
	return errors.Join(errs...)
}

func lends(record *state.Record) bool {
	for _, d := range record.Delegates {
		if len(d.Saved) > 0 {
			return true
		}
	}
	return false
}

func (p *Plugin) reclaimFrom(containerID, key string, lock Lock) error {
	defer lock(containerID)()
	record, err := p.recordOf(key)
	if err != nil || record == nil {
		return err
	}
	pod, err := p.podIfThere(record.Netns)
	if err != nil || pod != nil {
		return errors.Join(err, closeIfOpen(pod))
	}
	var errs []error
	for i := range record.Delegates {
		if err := p.reclaim(record, &record.Delegates[i]); err != nil {
			errs = append(errs, aboutPod(record.Pod, aboutNetwork(&record.Delegates[i], err)))
		}
	}
	return errors.Join(errs...)
}

func closeIfOpen(pod *netns.Namespace) error {
	if pod == nil {
		return nil
	}
	return pod.Close()
}

func (p *Plugin) reclaim(record *state.Record, d *state.Delegate) error {
	if len(d.Saved) == 0 {
		return nil
	}
	var saved *hostdevice.Saved
	if err := json.Unmarshal(d.Saved, &saved); err != nil || saved == nil {
		return err
	}
	stranded, err := saved.IsStranded(p.Host)
	if err != nil || !stranded {
		return err
	}
	if err := hostdevice.Restore(p.Host, nil, d.Interface, saved); err != nil {
		return fmt.Errorf("reclaiming %s: %w", saved.Name, err)
	}
	p.Log.Info("the namespace of a pod has ended: its device is the node's again", "device", saved.Name,
		"pod", record.Pod.String(), "network", d.Network, "netif", d.Interface)
	return nil
}
