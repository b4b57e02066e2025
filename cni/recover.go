// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/state"
)

// recoverRecord makes up for a record that was lost or damaged, so that DEL can
// take away what was made for a container. What it knows it has from the cached
// attachments, from the guards and their pins, and from weir's own configuration as the runtime
// cached it: the plugins of the default network are asked to DEL even where nothing
// else is known, as they keep a state of their own. It is nil when there is nothing
// to delete.
func (p *Plugin) recoverRecord(ctx context.Context, req *api.CNIRequest) *state.Record {
	pod, _ := PodOf(req.Args) // a DEL needs no pod
	record := &state.Record{
		ContainerID: req.ContainerID, Netns: req.Netns, Pod: pod, Phase: state.Deleting,
		Config: req.Config, Path: p.searchPath(&Config{}, req.Path),
	}
	config, err := ParseConfig(req.Config)
	if err == nil {
		record.Path = p.searchPath(config, req.Path)
		if config.isChained() {
			record.Chained = req.IfName
		}
	}
	p.recoverCached(record)
	p.recoverGuards(ctx, record)
	p.recoverPins(ctx, record)
	if len(record.Delegates) > 0 {
		p.Log.Warn("the record of a container is lost: what is known of its networks otherwise is taken away",
			"container_id", req.ContainerID, "pod", pod.String(), "networks", len(record.Delegates))
	} else {
		record.Pod = attachment.Pod{} // its status is of another sandbox
	}
	if err == nil && record.Chained == "" {
		p.recoverDefault(ctx, config, record, req)
	}
	if len(record.Delegates) == 0 {
		return nil
	}
	return record
}

func (p *Plugin) recoverCached(record *state.Record) {
	if record.Chained != "" {
		return
	}
	for _, c := range p.cachedOf(record.ContainerID) {
		info, _ := c.CapabilityArgs[capabilityDeviceInfo].(string)
		record.Delegates = append(record.Delegates, state.Delegate{
			Interface: c.IfName, Network: c.NetworkName, Config: c.Config,
			RuntimeConfig: c.CapabilityArgs, Args: c.CNIArgs, Saved: c.Saved, DeviceInfo: info,
		})
	}
}

// recoverDefault adds the networks of weir's configuration that no cached
// attachment is of.
func (p *Plugin) recoverDefault(ctx context.Context, config *Config, record *state.Record, req *api.CNIRequest) {
	delegates, err := p.clusterDelegates(ctx, config, record.Pod)
	if err != nil {
		p.Log.Warn("the default network is not known any more", "container_id", req.ContainerID, "err", err)
		return
	}
	for i := range delegates {
		nameInterface(&delegates[i], i, req.IfName)
		delegates[i].Args = cniArgs(req.Args)
		if delegateNamed(record, delegates[i].Interface) == nil {
			p.recoverMakeable(ctx, record, delegates[i])
		}
	}
	slices.SortStableFunc(record.Delegates, func(a, b state.Delegate) int {
		return placeOf(a, req.IfName) - placeOf(b, req.IfName)
	})
}

// recoverMakeable adds a network unless it cannot be carried out as it is: ADD refused
// it for the same reason, and the DEL that follows has nothing to take away.
func (p *Plugin) recoverMakeable(ctx context.Context, record *state.Record, stored state.Delegate) {
	record.Delegates = append(record.Delegates, stored)
	d, err := p.delegateOf(record, len(record.Delegates)-1)
	if run := executedOf(d); err == nil && run != nil {
		err = run.validate(ctx, nil)
	}
	if err != nil {
		p.Log.Warn("a network of the configuration was never made for the container", "container_id", record.ContainerID,
			"network", stored.Network, "netif", stored.Interface, "err", err)
		record.Delegates = record.Delegates[:len(record.Delegates)-1]
	}
}

// placeOf puts the default network first: DEL goes backwards.
func placeOf(d state.Delegate, ifname string) int {
	if d.Interface == ifname {
		return 0
	}
	return 1
}

func delegateNamed(record *state.Record, ifname string) *state.Delegate {
	i := slices.IndexFunc(record.Delegates, func(d state.Delegate) bool { return d.Interface == ifname })
	if i < 0 {
		return nil
	}
	return &record.Delegates[i]
}

// recoverGuards adds the guards that are held for the container.
func (p *Plugin) recoverGuards(ctx context.Context, record *state.Record) {
	for _, a := range p.Guards.Published(record.ContainerID) {
		if record.Chained == "" || record.Chained == a.Interface {
			p.recoverGuard(ctx, record, &a)
		}
	}
}

func (p *Plugin) recoverGuard(ctx context.Context, record *state.Record, a *attachment.Attachment) {
	d := delegateNamed(record, a.Interface)
	if d == nil {
		record.Delegates = append(record.Delegates, p.delegateOfGuard(ctx, record, a))
		d = &record.Delegates[len(record.Delegates)-1]
	}
	if d.Attachment == nil {
		d.Attachment = a
	}
}

// recoverPins adds the guards that say that they are the container's.
func (p *Plugin) recoverPins(ctx context.Context, record *state.Record) {
	entries, err := os.ReadDir(p.BPFDir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		m, err := loader.ReadMetadata(filepath.Join(p.BPFDir, entry.Name()))
		if err != nil || m.ContainerID != loader.CutContainerID(record.ContainerID) {
			continue
		}
		if record.Chained != "" && record.Chained != m.Interface {
			continue
		}
		p.recoverGuard(ctx, record, &attachment.Attachment{
			ID:  attachment.ID{ContainerID: record.ContainerID, Interface: m.Interface},
			Pod: record.Pod, Network: m.Network, PinDir: entry.Name(),
		})
	}
}

// delegateOfGuard is the network that a guard names, with the configuration that its
// NetworkAttachmentDefinition has by now, or none.
func (p *Plugin) delegateOfGuard(ctx context.Context, record *state.Record, a *attachment.Attachment) state.Delegate {
	d := state.Delegate{Interface: a.Interface, Network: a.Network}
	if record.Chained != "" {
		d.Config = record.Config
		return d
	}
	namespace, name, _ := strings.Cut(a.Network, "/")
	object, err := p.Networks.Network(ctx, namespace, name)
	if err != nil {
		return d
	}
	config, err := ParseConfig(record.Config)
	if err != nil {
		return d
	}
	if data, err := configOf(object, config.ConfDir); err == nil {
		d.Config = data
	}
	return d
}

// recordToDelete is the record of a request, recovered where it is lost or damaged;
// nil when there is nothing to delete.
func (p *Plugin) recordToDelete(ctx context.Context, req *api.CNIRequest) (*state.Record, error) {
	record, err := p.recordOf(keyOf(req))
	switch {
	case err == nil && record != nil:
		return record, nil
	case err != nil && !errors.Is(err, state.ErrCorrupt):
		return nil, err
	}
	if record = p.recoverRecord(ctx, req); record != nil || err == nil {
		return record, nil
	}
	return nil, p.Records.Delete(keyOf(req))
}
