// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// Update has a sandbox follow its pod: it takes away the networks that the annotation
// does not ask for any more, attaches those that are new, and publishes the network
// status where the pod's is another. Interfaces that stay are not touched. The first
// network that fails ends it; what is there by then stays. The container is to be
// locked meanwhile.
func (p *Plugin) Update(ctx context.Context, key string, object *corev1.Pod) error {
	record, err := p.recordOf(key)
	if err != nil || record == nil || record.Phase != state.Ready || record.Chained != "" {
		return err
	}
	pod, err := p.podIfThere(record.Netns)
	if err != nil || pod == nil {
		return err
	}
	defer pod.Close()
	err = p.follow(ctx, pod, record, object)
	if err != nil {
		p.reportFailedAdd(record.Pod, err)
	}
	return errors.Join(err, p.republish(ctx, record, object))
}

// follow changes a sandbox until it is as the annotation has it.
func (p *Plugin) follow(ctx context.Context, pod *netns.Namespace, record *state.Record, object *corev1.Pod) error {
	config, err := ParseConfig(record.Config)
	if err != nil {
		return err
	}
	wanted, err := wishesOf(object.Annotations, record.Pod.Namespace, config)
	if err != nil {
		return err
	}
	change := changesOf(record.Delegates, wanted.networks)
	if err := change.checkDefaultRoute(); err != nil {
		return err
	}
	added, err := p.planAdded(ctx, config, record, object, change)
	if err != nil {
		return err
	}
	for i := len(record.Delegates) - 1; i >= 0; i-- {
		if slices.Contains(change.removed, record.Delegates[i].Interface) {
			if err := p.unplug(ctx, pod, record, i); err != nil {
				return err
			}
		}
	}
	for i := range added {
		if err := p.plug(ctx, pod, record, &added[i]); err != nil {
			return err
		}
	}
	return nil
}

// changes are the differences between a sandbox and its pod's annotation.
type changes struct {
	removed []string // interfaces
	added   []Selection
	// touched are the elements of both.
	touched []Selection
}

// changesOf compares networks that were attached for an annotation with those that it
// asks for now. An element that stays keeps its interface; one that has changed in any
// key is another. A network whose ADD was cut off is attached anew.
func changesOf(delegates []state.Delegate, wanted []Selection) *changes {
	c := &changes{}
	stays := make([]bool, len(wanted))
	for i := range delegates {
		d := &delegates[i]
		if len(d.Selection) == 0 {
			continue
		}
		if place := placeIn(wanted, stays, d); place >= 0 && len(d.Result) > 0 {
			stays[place] = true
			continue
		}
		c.removed = append(c.removed, d.Interface)
		c.touched = append(c.touched, selectionOf(d))
	}
	for i := range wanted {
		if !stays[i] {
			c.added = append(c.added, wanted[i])
		}
	}
	c.touched = append(c.touched, c.added...)
	return c
}

// placeIn finds the first element that a network is of and no other network was.
func placeIn(wanted []Selection, taken []bool, d *state.Delegate) int {
	have := asText(selectionOf(d))
	for i := range wanted {
		if !taken[i] && asText(wanted[i]) == have {
			return i
		}
	}
	return -1
}

func selectionOf(d *state.Delegate) Selection {
	var s Selection
	_ = json.Unmarshal(d.Selection, &s) // what cannot be read is of no element
	return s
}

func asText(s Selection) string {
	data, _ := json.Marshal(s)
	return string(data)
}

var errDefaultRouteStays = errors.New("the default route of a running pod stays as it is: create the pod anew")

func (c *changes) checkDefaultRoute() error {
	for i := range c.touched {
		if wantsDefaultRoute(&c.touched[i]) {
			return fmt.Errorf("network %s: default-route: %w", c.touched[i].network(), errDefaultRouteStays)
		}
	}
	return nil
}

// planAdded finds what is wrong with the new networks before any is touched.
func (p *Plugin) planAdded(ctx context.Context, config *Config, record *state.Record, object *corev1.Pod, c *changes) ([]state.Delegate, error) {
	after := slices.Clone(record.Delegates)
	after = slices.DeleteFunc(after, func(d state.Delegate) bool { return slices.Contains(c.removed, d.Interface) })
	stay := len(after)
	for i := range c.added {
		d, err := p.selectedDelegate(ctx, config, record.Pod, &c.added[i])
		if err != nil {
			return nil, err
		}
		d.NoDefaultRoute = slices.ContainsFunc(after[:stay], func(d state.Delegate) bool { return d.NoDefaultRoute })
		after = append(after, *d)
	}
	for i := stay; i < len(after); i++ {
		if after[i].Interface == "" {
			after[i].Interface = freeName(after)
		}
	}
	if err := checkUnique(after); err != nil {
		return nil, err
	}
	return after[stay:], p.allocate(ctx, object, record.ContainerID, after[stay:], after[:stay])
}

// freeName is the first of net1, net2, ... that no network has.
func freeName(delegates []state.Delegate) string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("net%d", n)
		if !slices.ContainsFunc(delegates, func(d state.Delegate) bool { return d.Interface == name }) {
			return name
		}
	}
}

// plug attaches one more network, or leaves everything as it was.
func (p *Plugin) plug(ctx context.Context, pod *netns.Namespace, record *state.Record, added *state.Delegate) error {
	record.Delegates = append(record.Delegates, *added)
	place := len(record.Delegates) - 1
	stored := &record.Delegates[place]
	d, err := p.delegateOf(record, place)
	if err == nil {
		err = errors.Join(checkName(pod, record, stored), d.validate(ctx, pod))
	}
	if err != nil {
		record.Delegates = record.Delegates[:place]
		return aboutNetwork(added, err)
	}
	if err := p.makeOne(ctx, pod, record, stored, d); err != nil {
		return errors.Join(aboutNetwork(added, err), p.takeBack(ctx, pod, record, place))
	}
	if stored.Attachment != nil {
		p.Guards.Publish(*stored.Attachment)
	}
	p.reportAdded(record.Pod, stored)
	return nil
}

func (p *Plugin) makeOne(ctx context.Context, pod *netns.Namespace, record *state.Record, stored *state.Delegate, d delegate) error {
	err := errors.Join(p.reserve(record), d.save(pod))
	if err = errors.Join(err, p.Records.Save(record)); err != nil {
		return err
	}
	d.prepare()
	if err := p.addOne(ctx, pod, stored, d); err != nil {
		return err
	}
	return p.Records.Save(record)
}

// takeBack undoes a plug, also when the runtime or the agent is told to stop.
func (p *Plugin) takeBack(ctx context.Context, pod *netns.Namespace, record *state.Record, place int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return p.remove(ctx, pod, record, place)
}

// unplug takes a network from a running pod.
func (p *Plugin) unplug(ctx context.Context, pod *netns.Namespace, record *state.Record, place int) error {
	d := record.Delegates[place]
	if err := p.remove(ctx, pod, record, place); err != nil {
		return aboutNetwork(&d, err)
	}
	p.report(record.Pod, Event{Reason: ReasonRemoved, Message: fmt.Sprintf("Remove %s from %s", d.Interface, d.Network)})
	return nil
}

// remove undoes a network, made or half made, and forgets it when nothing is left.
func (p *Plugin) remove(ctx context.Context, pod *netns.Namespace, record *state.Record, place int) error {
	if err := p.delWithInfo(ctx, pod, record, place); err != nil {
		return err
	}
	record.Delegates = slices.Delete(record.Delegates, place, place+1)
	return p.Records.Save(record)
}

// republish writes the network status of a sandbox where the pod's is another.
func (p *Plugin) republish(ctx context.Context, record *state.Record, object *corev1.Pod) error {
	status, err := p.NetworkStatus(record)
	if err != nil || isPublished(object, status) {
		return err
	}
	if err := p.Networks.SetNetworkStatus(ctx, record.Pod, status); err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("publishing the network status: %w", err)
	}
	return nil
}

func isPublished(object *corev1.Pod, status []NetworkStatus) bool {
	var published []NetworkStatus
	if json.Unmarshal([]byte(object.Annotations[nadv1.NetworkStatusAnnot]), &published) != nil {
		return false
	}
	have, errHave := json.Marshal(published)
	want, errWant := json.Marshal(status)
	return errHave == nil && errWant == nil && bytes.Equal(have, want)
}
