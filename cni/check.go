// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// Check compares what the kernel has with what ADD made, for every network of a
// sandbox. It changes nothing.
func (p *Plugin) Check(ctx context.Context, req *api.CNIRequest) error {
	if err := checkRequest(req); err != nil {
		return err
	}
	record, err := p.recordOf(keyOf(req))
	if err != nil {
		return err
	}
	if record == nil || record.Phase != state.Ready {
		return newError(types.ErrUnknownContainer, fmt.Errorf("container %s has no networks of weir's", req.ContainerID))
	}
	pod, err := p.openPod(req.Netns)
	if err != nil {
		return aboutPod(record.Pod, err)
	}
	defer pod.Close()
	for i := range record.Delegates {
		if err := p.checkOne(ctx, pod, record, i); err != nil {
			return aboutPod(record.Pod, aboutNetwork(&record.Delegates[i], err))
		}
	}
	return nil
}

func (p *Plugin) checkOne(ctx context.Context, pod *netns.Namespace, record *state.Record, i int) error {
	result, err := storedResult(&record.Delegates[i])
	if err != nil {
		return err
	}
	d, err := p.delegateOf(record, i)
	if err != nil {
		return err
	}
	return d.check(ctx, pod, result)
}

// Lock keeps requests of a container away until unlock is called.
type Lock func(containerID string) (unlock func())

// GC takes away every attachment to the runtime's network that the runtime does not
// list as valid (CNI specification 1.1.0, GC), and has the default network's plugins
// do the same. Each container is locked meanwhile, and one that was attached since
// the call is left alone.
func (p *Plugin) GC(ctx context.Context, req *api.CNIRequest, lock Lock) error {
	config, err := ParseConfig(req.Config)
	if err != nil {
		return err
	}
	valid, err := validAttachments(req.Config)
	if err != nil {
		return err
	}
	records, err := p.Records.List()
	errs := []error{err}
	for _, record := range records {
		if networkOfRecord(record) == config.Name && !slices.Contains(valid, attachmentOf(record)) {
			errs = append(errs, p.collect(ctx, record, lock))
		}
	}
	return errors.Join(append(errs, p.collectDefault(ctx, config, req, valid))...)
}

func validAttachments(config []byte) ([]types.GCAttachment, error) {
	var c struct {
		Valid []types.GCAttachment `json:"cni.dev/valid-attachments"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, newError(types.ErrDecodingFailure, fmt.Errorf("reading cni.dev/valid-attachments: %w", err))
	}
	return c.Valid, nil
}

// networkOfRecord is the name of the configuration that a sandbox was attached by.
func networkOfRecord(record *state.Record) string {
	var config struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(record.Config, &config); err != nil {
		return ""
	}
	return config.Name
}

// attachmentOf is what the runtime knows a record as.
func attachmentOf(record *state.Record) types.GCAttachment {
	a := types.GCAttachment{ContainerID: record.ContainerID, IfName: record.Chained}
	if record.Chained == "" && len(record.Delegates) > 0 {
		a.IfName = record.Delegates[0].Interface
	}
	return a
}

// collectDefault hands GC on to the plugins of the default network. Those of other
// networks get a DEL for each attachment that goes: whose attachments a network
// had, only the runtime knows that attached them.
func (p *Plugin) collectDefault(ctx context.Context, config *Config, req *api.CNIRequest, valid []types.GCAttachment) error {
	if config.isChained() {
		return nil
	}
	record := &state.Record{Path: p.searchPath(config, req.Path)}
	delegates, err := p.clusterDelegates(ctx, config, attachment.Pod{})
	if err != nil {
		return err
	}
	record.Delegates = delegates[:1]
	d, err := p.delegateOf(record, 0)
	if err != nil {
		return aboutNetwork(&delegates[0], err)
	}
	run, ok := d.(*executed)
	if !ok {
		return nil
	}
	valid = append(slices.Clone(valid), p.recorded()...)
	if err := run.cni().GCNetworkList(ctx, run.list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		return aboutNetwork(&delegates[0], executing(err))
	}
	return nil
}

// recorded are all attachments on record: libcni would delete those that another of
// a pod's networks, or another runtime's, has by the default network's name.
func (p *Plugin) recorded() []types.GCAttachment {
	records, _ := p.Records.List() // what cannot be read has been said already
	var all []types.GCAttachment
	for _, record := range records {
		for _, d := range record.Delegates {
			all = append(all, types.GCAttachment{ContainerID: record.ContainerID, IfName: d.Interface})
		}
	}
	return all
}

func (p *Plugin) collect(ctx context.Context, listed *state.Record, lock Lock) error {
	defer lock(listed.ContainerID)()
	record, err := p.recordOf(listed.Key())
	if err != nil || record == nil || !record.Created.Equal(listed.Created) {
		return err
	}
	return p.Discard(ctx, record)
}

// Discard takes a sandbox away whose container is gone or was never finished.
func (p *Plugin) Discard(ctx context.Context, record *state.Record) error {
	if err := p.tearDown(ctx, record, len(record.Delegates)-1); err != nil {
		return aboutPod(record.Pod, err)
	}
	return nil
}

// Status tells whether the next ADD could work: the kernel can run the programs,
// and the default network's plugins are there and say so themselves.
func (p *Plugin) Status(ctx context.Context, req *api.CNIRequest) error {
	if err := loader.Missing(); err != nil {
		return newError(types.ErrPluginNotAvailable, err)
	}
	config, err := ParseConfig(req.Config)
	if err != nil {
		return err
	}
	if config.isChained() {
		return nil
	}
	if err := isReady(config); err != nil {
		return newError(types.ErrPluginNotAvailable, err)
	}
	record := &state.Record{Path: p.searchPath(config, req.Path)}
	if record.Delegates, err = p.clusterDelegates(ctx, config, attachment.Pod{}); err != nil {
		return err
	}
	for i := range record.Delegates {
		if err := p.statusOf(ctx, record, i); err != nil {
			return newError(types.ErrPluginNotAvailable, aboutNetwork(&record.Delegates[i], err))
		}
	}
	return nil
}

func (p *Plugin) statusOf(ctx context.Context, record *state.Record, i int) error {
	d, err := p.delegateOf(record, i)
	if err != nil {
		return err
	}
	run := executedOf(d)
	if run == nil {
		return nil
	}
	if err := run.validate(ctx, nil); err != nil || predatesStatus(run.list) {
		return err
	}
	return run.cni().GetStatusNetworkList(ctx, run.list)
}

// predatesStatus is true for configurations of a version that has no STATUS.
func predatesStatus(list *libcni.NetworkConfigList) bool {
	hasStatus, err := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0")
	return err == nil && !hasStatus
}
