// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// undoTimeout bounds the undoing of an ADD that failed, which goes on when the
// runtime has given up waiting.
const undoTimeout = time.Minute

// Add attaches a pod to its networks, in order, and returns the result of the
// default network. When it fails, everything is as before; what could not be
// undone stays in the record, for DEL.
func (p *Plugin) Add(ctx context.Context, req *api.CNIRequest) (*current.Result, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	wanted, err := PodOf(req.Args)
	if err != nil {
		return nil, err
	}
	result, err := p.attach(ctx, req, wanted)
	if err != nil {
		p.reportFailedAdd(wanted, err)
		return nil, aboutPod(wanted, err)
	}
	return result, nil
}

func (p *Plugin) attach(ctx context.Context, req *api.CNIRequest, wanted attachment.Pod) (*current.Result, error) {
	if err := p.clearUnfinished(ctx, keyOf(req)); err != nil {
		return nil, err
	}
	pod, err := p.openPod(req.Netns)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	var record *state.Record
	err = traced(ctx, "plan", func(ctx context.Context) (err error) { record, err = p.plan(ctx, req, wanted); return err })
	if err != nil {
		return nil, err
	}
	return p.carryOut(ctx, pod, record)
}

// clearUnfinished undoes what an agent that died in the middle of an ADD has
// left. A sandbox whose ADD was finished is the runtime's to DEL first.
func (p *Plugin) clearUnfinished(ctx context.Context, key string) error {
	record, err := p.recordOf(key)
	switch {
	case err != nil:
		return err
	case record == nil:
		return nil
	case record.Phase == state.Ready:
		return newError(types.ErrInvalidEnvironmentVariables,
			fmt.Errorf("container %s has its networks already: the runtime must call DEL before another ADD", key))
	default:
		return p.undo(ctx, record, len(record.Delegates)-1)
	}
}

// carryOut does what the plan says, or nothing.
func (p *Plugin) carryOut(ctx context.Context, pod *netns.Namespace, record *state.Record) (*current.Result, error) {
	var delegates []delegate
	err := traced(ctx, "validate", func(ctx context.Context) (err error) { delegates, err = p.validate(ctx, pod, record); return err })
	if err != nil {
		return nil, err
	}
	err = traced(ctx, "begin", func(context.Context) error { return p.begin(pod, record, delegates) })
	if err != nil {
		return nil, errors.Join(err, p.undo(ctx, record, -1))
	}
	for i, d := range delegates {
		if err := p.addOne(ctx, pod, &record.Delegates[i], d); err != nil {
			return nil, errors.Join(aboutNetwork(&record.Delegates[i], err), p.undo(ctx, record, i))
		}
	}
	err = traced(ctx, "finish", func(ctx context.Context) error { return p.finish(ctx, record) })
	if err != nil {
		return nil, errors.Join(err, p.undo(ctx, record, len(delegates)-1))
	}
	return storedResult(&record.Delegates[0])
}

// begin writes down what is about to be made, and what is to be put back.
func (p *Plugin) begin(pod *netns.Namespace, record *state.Record, delegates []delegate) error {
	err := p.reserve(record)
	for i, d := range delegates {
		if failed := d.save(pod); failed != nil {
			err = errors.Join(err, aboutNetwork(&record.Delegates[i], failed))
		}
	}
	if err = errors.Join(err, p.Records.Save(record)); err != nil {
		return err
	}
	for _, d := range delegates {
		d.prepare()
	}
	return nil
}

// validate makes every delegate and finds what is wrong with any of them before
// the first is carried out.
func (p *Plugin) validate(ctx context.Context, pod *netns.Namespace, record *state.Record) ([]delegate, error) {
	var delegates []delegate
	for i := range record.Delegates {
		stored := &record.Delegates[i]
		d, err := p.delegateOf(record, i)
		if err == nil {
			err = errors.Join(checkName(pod, record, stored), d.validate(ctx, pod))
		}
		if err != nil {
			return nil, aboutNetwork(stored, err)
		}
		delegates = append(delegates, d)
	}
	return delegates, nil
}

func (p *Plugin) addOne(ctx context.Context, pod *netns.Namespace, stored *state.Delegate, d delegate) error {
	attach := func(ctx context.Context) error { return p.attachOne(ctx, pod, stored, d) }
	return traced(ctx, "attach", attach, networkAttributes(stored)...)
}

func (p *Plugin) attachOne(ctx context.Context, pod *netns.Namespace, stored *state.Delegate, d delegate) error {
	if err := p.copyDeviceInfo(stored); err != nil {
		return err
	}
	result, err := d.add(ctx, pod)
	if err != nil {
		return err
	}
	if stored.Result, err = json.Marshal(result); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	if stored.Attachment != nil {
		describe(stored, pod, result)
	}
	return nil
}

// describe fills in what is known of an attachment only once it is there.
func describe(stored *state.Delegate, pod *netns.Namespace, result *current.Result) {
	a := stored.Attachment
	a.Addresses = prefixesOf(result)
	if a.Addresses == nil {
		a.Addresses = []netip.Prefix{}
	}
	link, err := pod.Netlink().LinkByName(stored.Interface)
	if err != nil {
		return
	}
	a.MAC, a.MTU = link.Attrs().HardwareAddr.String(), link.Attrs().MTU
	a.Type = link.Type()
}

// finish makes the sandbox known: its record first, for that is what DEL needs,
// then its status.
func (p *Plugin) finish(ctx context.Context, record *state.Record) error {
	record.Phase = state.Ready
	if err := p.Records.Save(record); err != nil {
		return err
	}
	if err := p.publish(ctx, record); err != nil {
		return err
	}
	for i := range record.Delegates {
		p.reportAdded(record.Pod, &record.Delegates[i])
	}
	for _, d := range record.Delegates {
		if d.Attachment != nil {
			p.Guards.Publish(*d.Attachment)
		}
	}
	return nil
}

// publish tells the pod's networks where the pod is known. Behind another plugin
// that is the runtime's task.
func (p *Plugin) publish(ctx context.Context, record *state.Record) error {
	if record.Pod.Name == "" || record.Chained != "" {
		return nil
	}
	status, err := p.NetworkStatus(record)
	if err != nil {
		return err
	}
	if err := p.Networks.SetNetworkStatus(ctx, record.Pod, status); err != nil {
		return fmt.Errorf("publishing the network status: %w", err)
	}
	return nil
}

// undo takes back the delegates from the one at index last down to the first.
// The record goes when all is taken back; else it stays for DEL.
func (p *Plugin) undo(ctx context.Context, record *state.Record, last int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := traced(ctx, "undo", func(ctx context.Context) error { return p.tearDown(ctx, record, last) })
	if err != nil {
		return fmt.Errorf("undoing what was done: %w", err)
	}
	return nil
}
