// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// chained is weir behind another plugin of a list, under Multus or any other
// runtime: it makes nothing, and guards the interface that is there.
type chained struct {
	job
}

// planChained is what an ADD behind another plugin comes down to.
func (p *Plugin) planChained(config *Config, req *api.CNIRequest, pod attachment.Pod) (*state.Record, error) {
	if config.RawPrevResult == nil {
		return nil, newError(types.ErrInvalidNetworkConfig, fmt.Errorf(
			"weir's configuration %q has neither clusterNetwork nor delegates: the default network is missing, "+
				"or, where weir is meant to guard what another plugin makes, that plugin before it", config.Name))
	}
	previous, err := json.Marshal(config.RawPrevResult)
	if err != nil {
		return nil, newError(types.ErrDecodingFailure, fmt.Errorf("reading prevResult: %w", err))
	}
	record := p.newRecord(config, req, pod)
	record.Chained = req.IfName
	record.Delegates = []state.Delegate{{
		Interface: req.IfName, Network: config.Name, Config: req.Config,
		RuntimeConfig: config.RuntimeConfig, Result: previous,
	}}
	record.Created = time.Now()
	return record, nil
}

func (d *chained) validate(context.Context, *netns.Namespace) error {
	if _, err := storedResult(d.stored); err != nil {
		return newError(types.ErrInvalidNetworkConfig, fmt.Errorf("prevResult: %w", err))
	}
	return nil
}

func (d *chained) save(*netns.Namespace) error { return nil }

func (d *chained) prepare() {}

func (d *chained) add(ctx context.Context, pod *netns.Namespace) (*current.Result, error) {
	result, err := storedResult(d.stored)
	if err != nil {
		return nil, err
	}
	return result, d.run(ctx, commandAdd, step{"guard", func() error { return d.guardMade(pod, result) }})
}

func (d *chained) check(ctx context.Context, pod *netns.Namespace, _ *current.Result) error {
	return d.run(ctx, commandCheck, step{"guard", func() error { return d.checkGuard(pod) }})
}

// del takes the programs off an interface that lives on: it is for the plugin that
// made it to take it away.
func (d *chained) del(ctx context.Context, pod *netns.Namespace) error {
	return d.run(ctx, commandDel, step{"unguard", func() error { return d.unguard(pod) }})
}

func (d *chained) unguard(pod *netns.Namespace) error {
	var err error
	if a := d.stored.Attachment; pod != nil && a != nil && a.PinDir != "" {
		err = d.plugin.Guards.Detach(Place(d.plugin.Host, pod, a), a)
	}
	if netif.IsNotFound(err) {
		err = nil
	}
	return errors.Join(err, d.removeGuard())
}
