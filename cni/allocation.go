// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/devices"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// Allocations knows which devices a pod was given.
type Allocations interface {
	Devices(ctx context.Context, pod *corev1.Pod) (devices.IDs, error)
}

// resourceAnnotation of a NetworkAttachmentDefinition names the resource whose next
// device is the network's.
const resourceAnnotation = "k8s.v1.cni.cncf.io/resourceName"

// Capabilities that weir gives a network of a device; libcni hands them to the plugins
// that declare them.
const (
	capabilityDevice     = "deviceID"
	capabilityDeviceInfo = "CNIDeviceInfoFile"
)

// allocate gives networks their devices: of each resource the devices of the pod in
// their order, to the networks in theirs, but for those that other networks of the
// sandbox hold already.
func (p *Plugin) allocate(ctx context.Context, pod *corev1.Pod, containerID string, networks, others []state.Delegate) error {
	ids, err := p.allocationsFor(ctx, pod, networks)
	if err != nil {
		return err
	}
	for _, d := range others {
		if d.Resource == "" {
			continue
		}
		ids[d.Resource] = slices.DeleteFunc(ids[d.Resource], func(id string) bool { return id == d.DeviceID })
	}
	for i := range networks {
		d := &networks[i]
		if err := errors.Join(allocateTo(d, ids), p.nameDeviceInfo(d, containerID)); err != nil {
			return invalid("network %s (%s): %w", d.Network, d.Interface, err)
		}
	}
	return nil
}

var errNoAllocations = errors.New("this agent knows of no kubelet that could have given the pod devices")

// allocationsFor asks for the devices of a pod, where a network needs one.
func (p *Plugin) allocationsFor(ctx context.Context, pod *corev1.Pod, networks []state.Delegate) (devices.IDs, error) {
	needs := slices.IndexFunc(networks, func(d state.Delegate) bool { return d.Resource != "" })
	if needs < 0 {
		return devices.IDs{}, nil
	}
	if p.Devices == nil {
		return nil, invalid("network %s: %s %q: %w", networks[needs].Network, resourceAnnotation, networks[needs].Resource, errNoAllocations)
	}
	ids, err := p.Devices.Devices(ctx, pod)
	if err != nil {
		return nil, newError(types.ErrTryAgainLater, fmt.Errorf("finding the devices of the pod: %w", err))
	}
	return ids, nil
}

// allocateTo gives a network the next device of its resource.
func allocateTo(d *state.Delegate, ids devices.IDs) error {
	if d.Resource == "" {
		return nil
	}
	id, ok := ids.Take(d.Resource)
	if !ok {
		return fmt.Errorf("%s %q: the pod was given no device of it that is not another network's already", resourceAnnotation, d.Resource)
	}
	config, err := withDevice(d.Config, id)
	if err != nil {
		return err
	}
	d.DeviceID, d.Config = id, config
	d.RuntimeConfig = joinedMaps(d.RuntimeConfig, map[string]any{capabilityDevice: id})
	return nil
}

// withDevice gives every plugin of a network the device by the keys that they read.
func withDevice(data json.RawMessage, id string) (json.RawMessage, error) {
	return eachPlugin(data, func(plugin map[string]any) { plugin["deviceID"], plugin["pciBusID"] = id, id })
}

// nameDeviceInfo names the Device Information file of a network that has a device, or
// whose plugin writes one.
func (p *Plugin) nameDeviceInfo(d *state.Delegate, containerID string) error {
	list, err := parseNetwork(d.Config)
	if err != nil || d.Resource == "" && !declares(list, capabilityDeviceInfo) {
		return err
	}
	if d.DeviceInfo, err = p.DeviceInfo.Path(d.Network, containerID, d.Interface); err != nil {
		return err
	}
	d.RuntimeConfig = joinedMaps(d.RuntimeConfig, map[string]any{capabilityDeviceInfo: d.DeviceInfo})
	return nil
}

// copyDeviceInfo gives a network what the device's plugin wrote about the device, if it
// did.
func (p *Plugin) copyDeviceInfo(d *state.Delegate) error {
	if d.Resource == "" {
		return nil
	}
	err := p.DeviceInfo.Copy(d.Resource, d.DeviceID, d.DeviceInfo)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("handing on what is known of device %s: %w", d.DeviceID, err)
	}
	return nil
}

// deviceInfoOf is what is known of the device of a network; nil for nothing.
func (p *Plugin) deviceInfoOf(record *state.Record, d *state.Delegate) *nadv1.DeviceInfo {
	if d.DeviceInfo == "" {
		return nil
	}
	info, err := p.DeviceInfo.Read(d.DeviceInfo)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.Log.Warn("the network status has no device-info", "pod", record.Pod.String(), "network", d.Network, "netif", d.Interface, "err", err)
	}
	return info
}

// delWithInfo undoes a network and removes its Device Information.
func (p *Plugin) delWithInfo(ctx context.Context, pod *netns.Namespace, record *state.Record, i int) error {
	detach := func(ctx context.Context) error { return p.delOne(ctx, pod, record, i) }
	err := traced(ctx, "detach", detach, networkAttributes(&record.Delegates[i])...)
	if file := record.Delegates[i].DeviceInfo; err == nil && file != "" {
		err = p.DeviceInfo.Remove(file)
	}
	return err
}
