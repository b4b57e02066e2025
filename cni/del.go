// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// Del takes a sandbox's networks away, the last first. It needs neither the pod
// nor its namespace, and what is gone already is no error. All is tried; what
// fails is returned, and stays on record for another DEL.
func (p *Plugin) Del(ctx context.Context, req *api.CNIRequest) error {
	if err := checkRequest(req); err != nil {
		return err
	}
	record, err := p.recordToDelete(ctx, req)
	if err != nil || record == nil {
		return err
	}
	if req.Netns != "" {
		record.Netns = req.Netns
	}
	if err := p.tearDown(ctx, record, len(record.Delegates)-1); err != nil {
		p.report(record.Pod, Event{Warning: true, Reason: ReasonFailedDelete, Message: err.Error()})
		return aboutPod(record.Pod, err)
	}
	return nil
}

// tearDown undoes the delegates from the one at index last down, gives back what
// was reserved for all of them, and removes the record when nothing is left.
func (p *Plugin) tearDown(ctx context.Context, record *state.Record, last int) error {
	p.markDeleting(record)
	pod, err := p.podIfThere(record.Netns)
	if err != nil {
		return err
	}
	if pod != nil {
		defer pod.Close()
	}
	var errs []error
	for i := last; i >= 0; i-- {
		if err := p.delWithInfo(ctx, pod, record, i); err != nil {
			errs = append(errs, aboutNetwork(&record.Delegates[i], err))
		}
	}
	for i := last + 1; i < len(record.Delegates); i++ {
		if a := record.Delegates[i].Attachment; a != nil && a.PinDir != "" {
			errs = append(errs, p.Guards.Remove(a))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, p.keepForDel(record))
	}
	return traced(ctx, "forget", func(ctx context.Context) error { return p.forget(ctx, record) })
}

func (p *Plugin) delOne(ctx context.Context, pod *netns.Namespace, record *state.Record, i int) error {
	if a := record.Delegates[i].Attachment; a != nil {
		p.Guards.Ignore(a.ID)
		if err := reclaimName(pod, a); err != nil {
			return err
		}
	}
	if len(record.Delegates[i].Config) == 0 {
		return p.delBare(pod, &record.Delegates[i])
	}
	d, err := p.delegateOf(record, i)
	if err != nil {
		return errors.Join(err, p.delBare(pod, &record.Delegates[i]))
	}
	return d.del(ctx, pod)
}

// reclaimName finds an interface that was renamed inside the pod, by its number, and gives
// it the name back by which it is taken away.
func reclaimName(pod *netns.Namespace, a *attachment.Attachment) error {
	if pod == nil || a.Index == 0 || a.HostInterface != "" {
		return nil
	}
	return netif.Reclaim(pod, a.Index, a.Interface)
}

// delBare removes the interface and the guard of a delegate whose configuration is
// lost or can no longer be carried out, an IPAM plugin that was uninstalled say.
func (p *Plugin) delBare(pod *netns.Namespace, stored *state.Delegate) error {
	var errs []error
	if pod != nil {
		errs = append(errs, netif.Delete(pod, stored.Interface))
	}
	if stored.Attachment != nil {
		errs = append(errs, p.Guards.Remove(stored.Attachment))
	}
	return errors.Join(errs...)
}

// markDeleting has the next agent go on, should this one be killed before it has
// ended. A disk on which nothing can be written must not keep a DEL from freeing
// what it can.
func (p *Plugin) markDeleting(record *state.Record) {
	if record.Phase != state.Ready {
		return
	}
	if err := p.keepForDel(record); err != nil {
		p.Log.Warn("the record still says that the sandbox is whole", "container_id", record.ContainerID, "err", err)
	}
}

func (p *Plugin) keepForDel(record *state.Record) error {
	record.Phase = state.Deleting
	return p.Records.Save(record)
}

func (p *Plugin) forget(ctx context.Context, record *state.Record) error {
	if record.Pod.Name != "" && record.Chained == "" && !p.isReplaced(record) {
		if err := p.Networks.SetNetworkStatus(ctx, record.Pod, nil); err != nil && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("withdrawing the network status: %w", err)
		}
	}
	return p.Records.Delete(record.Key())
}

// isReplaced tells that the pod has another sandbox already, whose network status
// must stay.
func (p *Plugin) isReplaced(record *state.Record) bool {
	// A record that cannot be read is none that this one could be replaced by.
	records, _ := p.Records.List()
	return slices.ContainsFunc(records, func(other *state.Record) bool {
		return other.ContainerID != record.ContainerID && other.Chained == "" && other.Phase == state.Ready &&
			other.Pod.Namespace == record.Pod.Namespace && other.Pod.Name == record.Pod.Name
	})
}

// podIfThere opens a pod's namespace; nil when it is gone. The node's own is no pod's,
// and no ADD took it: what bears the interface's name in it is the node's.
func (p *Plugin) podIfThere(path string) (*netns.Namespace, error) {
	if path == "" {
		return nil, nil
	}
	pod, err := netns.Open(path)
	switch {
	case errors.Is(err, netns.ErrNotFound) || errors.Is(err, netns.ErrNotNamespace):
		return nil, nil
	case err == nil && pod.Same(p.Host):
		return nil, pod.Close()
	}
	return pod, err
}
