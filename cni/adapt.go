// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/state"
)

// Adapt takes over what networks, by their names in network-status, now say under the key
// weir: from here on GuardSpec is what they say. It returns the attachments of the sandbox
// for which that is another. What a network says wrong, or one that is gone, leaves in
// force what is. The container is to be locked meanwhile.
func (p *Plugin) Adapt(ctx context.Context, key string, networks map[string]bool) ([]attachment.Attachment, error) {
	record, err := p.recordOf(key)
	if err != nil || record == nil || record.Phase != state.Ready {
		return nil, err
	}
	var adapted []attachment.Attachment
	var errs []error
	for i := range record.Delegates {
		d := &record.Delegates[i]
		if d.Attachment == nil || d.Attachment.PinDir == "" || !networks[d.Network] {
			continue
		}
		changed, err := p.adaptOne(ctx, record, i)
		if err != nil {
			errs = append(errs, aboutPod(record.Pod, aboutNetwork(d, err)))
			p.report(record.Pod, Event{Warning: true, Reason: ReasonGuardUnchanged, Message: fmt.Sprintf(
				"The guard of %s stays as it is: network %s: %v", d.Interface, d.Network, err)})
		}
		if changed {
			adapted = append(adapted, *d.Attachment)
		}
	}
	if len(adapted) > 0 {
		if err := p.Records.Save(record); err != nil {
			return nil, errors.Join(append(errs, err)...)
		}
	}
	return adapted, errors.Join(errs...)
}

// adaptOne changes the options of one network, and tells whether they are others.
func (p *Plugin) adaptOne(ctx context.Context, record *state.Record, i int) (bool, error) {
	stored := &record.Delegates[i]
	now, err := p.currentConfig(ctx, record, stored.Network)
	if err != nil || now == nil {
		return false, err
	}
	inForce := stored.Config
	if len(stored.Options) > 0 {
		inForce = stored.Options
	}
	if bytes.Equal(now, inForce) {
		return false, nil
	}
	list, err := parseNetwork(now)
	if err != nil {
		return false, invalid("%w", err)
	}
	wanted, err := optionsOf(list)
	if err != nil {
		return false, err
	}
	d, err := p.delegateOf(record, i)
	if err != nil || reflect.DeepEqual(wanted.withPlaceOf(d.shared().option), d.shared().option) {
		return false, err
	}
	before := stored.Options
	stored.Options = now
	if err := p.validateSpec(stored.Attachment, record, i); err != nil {
		stored.Options = before
		return false, err
	}
	stored.Attachment.Rules = rulesOf(wanted.Rules)
	return true, nil
}

// currentConfig is the configuration that a network has now; nil where it is none of a
// NetworkAttachmentDefinition, or that is gone.
func (p *Plugin) currentConfig(ctx context.Context, record *state.Record, network string) (json.RawMessage, error) {
	namespace, name, ok := strings.Cut(network, "/")
	if !ok {
		return nil, nil
	}
	object, err := p.Networks.Network(ctx, namespace, name)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	config, err := ParseConfig(record.Config)
	if err != nil {
		return nil, err
	}
	return configOf(object, config.ConfDir)
}

// validateSpec finds what of the options no guard of the attachment can be made of.
func (p *Plugin) validateSpec(a *attachment.Attachment, record *state.Record, i int) error {
	d, err := p.delegateOf(record, i)
	if err != nil {
		return err
	}
	spec, err := guardSpecOf(d, a)
	if err != nil {
		return err
	}
	if err := spec.Validate(); err != nil {
		return invalid("%w", err)
	}
	return nil
}

// optionsInForce are those of ADD, or what the network said since. What this weir cannot
// read of the latter was written by another one: then it is those of ADD.
func optionsInForce(stored *state.Delegate, list *libcni.NetworkConfigList) (options, error) {
	atAdd, err := optionsOf(list)
	if err != nil || len(stored.Options) == 0 {
		return atAdd, err
	}
	now, err := parseNetwork(stored.Options)
	if err != nil {
		return atAdd, nil
	}
	if option, err := optionsOf(now); err == nil {
		return option.withPlaceOf(atAdd), nil
	}
	return atAdd, nil
}

// withPlaceOf keeps an attachment where it stands in its network: the table of the members
// follows a network that changes, its own programs do not.
func (o options) withPlaceOf(was options) options {
	o.Isolation, o.Segment = was.Isolation, was.Segment
	return o
}
