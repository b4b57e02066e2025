// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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
	record, err := p.recordOf(req.ContainerID)
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

// GC takes away every sandbox that the runtime does not list as valid (CNI
// specification 1.1.0, GC). Each is locked meanwhile by its container ID, and one
// that was made since the call is left alone.
func (p *Plugin) GC(ctx context.Context, req *api.CNIRequest, lock func(containerID string) (unlock func())) error {
	var config struct {
		Valid []types.GCAttachment `json:"cni.dev/valid-attachments"`
	}
	if err := json.Unmarshal(req.Config, &config); err != nil {
		return newError(types.ErrDecodingFailure, fmt.Errorf("reading cni.dev/valid-attachments: %w", err))
	}
	valid := map[string]bool{}
	for _, id := range config.Valid {
		valid[id.ContainerID] = true
	}
	records, err := p.Records.List()
	errs := []error{err}
	for _, record := range records {
		if !valid[record.ContainerID] {
			errs = append(errs, p.collect(ctx, record, lock))
		}
	}
	return errors.Join(errs...)
}

func (p *Plugin) collect(ctx context.Context, listed *state.Record, lock func(containerID string) (unlock func())) error {
	defer lock(listed.ContainerID)()
	record, err := p.recordOf(listed.ContainerID)
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
	run, ok := d.(*executed)
	if !ok {
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
