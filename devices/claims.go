// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
)

// The attributes by which the driver of a device says, as strings, what a device
// plugin would: its ID, and the resource that a network names.
const (
	attributeDeviceID     = "k8s.cni.cncf.io/deviceID"
	attributeResourceName = "k8s.cni.cncf.io/resourceName"
)

// claimsTimeout bounds the reads for one pod.
const claimsTimeout = 20 * time.Second

// ClaimReader reads what Claimed asks of the API server.
type ClaimReader interface {
	// Claim reads a ResourceClaim.
	Claim(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error)
	// Slices lists the ResourceSlices of a driver that are a node's own.
	Slices(ctx context.Context, driver, node string) ([]resourcev1.ResourceSlice, error)
}

// Claimed are the devices that the scheduler gave a pod of a node by ResourceClaims,
// of resource.k8s.io/v1. They are those in ResourceSlices of that very node; what is
// reached from several nodes, and what the pod may only look at (adminAccess), is
// none that could be moved into it.
//
// A device without the attributes k8s.cni.cncf.io/deviceID and
// k8s.cni.cncf.io/resourceName is passed over: not all devices are a network's. So is
// one that no slice has. It is an error when a claim does not exist, or is not
// allocated, and when a device that stands for an extended resource does not bear
// that resource's name.
func Claimed(ctx context.Context, reader ClaimReader, pod *corev1.Pod, node string) (IDs, error) {
	ctx, cancel := context.WithTimeout(ctx, claimsTimeout)
	defer cancel()
	names, err := claimNames(pod)
	if err != nil {
		return nil, err
	}
	r := &resolver{reader: reader, node: node, slices: map[string][]resourcev1.ResourceSlice{}, ids: IDs{}}
	for _, name := range names {
		if err := r.addClaim(ctx, pod.Namespace, name); err != nil {
			return nil, fmt.Errorf("ResourceClaim %s/%s: %w", pod.Namespace, name, err)
		}
	}
	if status := pod.Status.ExtendedResourceClaimStatus; status != nil {
		if err := r.addExtended(ctx, pod.Namespace, status); err != nil {
			return nil, fmt.Errorf("ResourceClaim %s/%s: %w", pod.Namespace, status.ResourceClaimName, err)
		}
	}
	return r.ids, nil
}

// hasClaims tells a pod for which Claimed has anything to read.
func hasClaims(pod *corev1.Pod) bool {
	return len(pod.Spec.ResourceClaims) > 0 || len(pod.Status.ResourceClaimStatuses) > 0 ||
		pod.Status.ExtendedResourceClaimStatus != nil
}

// claimNames are the names of the pod's claims: those that it names itself, and those
// made for it of a template, each once.
func claimNames(pod *corev1.Pod) ([]string, error) {
	made := map[string]bool{}
	var names []string
	add := func(name *string) {
		if name != nil && !slices.Contains(names, *name) {
			names = append(names, *name)
		}
	}
	for _, status := range pod.Status.ResourceClaimStatuses {
		made[status.Name] = true
		// Without a name there was no need for a claim.
		add(status.ResourceClaimName)
	}
	for _, claim := range pod.Spec.ResourceClaims {
		if claim.ResourceClaimTemplateName != nil && !made[claim.Name] {
			return nil, fmt.Errorf("no ResourceClaim has been made of the template %s for %s", *claim.ResourceClaimTemplateName, claim.Name)
		}
		add(claim.ResourceClaimName)
	}
	return names, nil
}

// resolver collects the devices of one pod.
type resolver struct {
	reader ClaimReader
	node   string
	slices map[string][]resourcev1.ResourceSlice // by driver
	ids    IDs
}

func (r *resolver) addClaim(ctx context.Context, namespace, name string) error {
	results, err := r.allocated(ctx, namespace, name)
	if err != nil {
		return err
	}
	for i := range results {
		device, err := r.device(ctx, &results[i])
		if err != nil {
			return err
		}
		r.ids.add(stringOf(device, attributeResourceName), stringOf(device, attributeDeviceID))
	}
	return nil
}

// addExtended adds the devices of the claim that the scheduler made of the extended
// resources in the pod's containers.
func (r *resolver) addExtended(ctx context.Context, namespace string, status *corev1.PodExtendedResourceClaimStatus) error {
	results, err := r.allocated(ctx, namespace, status.ResourceClaimName)
	if err != nil {
		return err
	}
	for _, mapping := range status.RequestMappings {
		isRequest := func(result resourcev1.DeviceRequestAllocationResult) bool {
			return result.Request == mapping.RequestName
		}
		if !slices.ContainsFunc(results, isRequest) {
			return fmt.Errorf("nothing is allocated for request %s, which is resource %s of container %s",
				mapping.RequestName, mapping.ResourceName, mapping.ContainerName)
		}
		for i := range results {
			if !isRequest(results[i]) {
				continue
			}
			if err := r.addMapped(ctx, &results[i], mapping.ResourceName); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *resolver) addMapped(ctx context.Context, result *resourcev1.DeviceRequestAllocationResult, resource string) error {
	device, err := r.device(ctx, result)
	if err != nil {
		return err
	}
	id, named := stringOf(device, attributeDeviceID), stringOf(device, attributeResourceName)
	switch {
	case id == "":
		return nil
	case named == "":
		return fmt.Errorf("device %s/%s/%s has no attribute %s, and stands for resource %s",
			result.Driver, result.Pool, result.Device, attributeResourceName, resource)
	case named != resource:
		return fmt.Errorf("device %s/%s/%s has %s %q, and stands for resource %s",
			result.Driver, result.Pool, result.Device, attributeResourceName, named, resource)
	}
	r.ids.add(resource, id)
	return nil
}

func (r *resolver) allocated(ctx context.Context, namespace, name string) ([]resourcev1.DeviceRequestAllocationResult, error) {
	claim, err := r.reader.Claim(ctx, namespace, name)
	if err != nil {
		return nil, fmt.Errorf("reading it: %w", err)
	}
	if claim.Status.Allocation == nil || len(claim.Status.Allocation.Devices.Results) == 0 {
		return nil, errors.New("no device is allocated for it")
	}
	return claim.Status.Allocation.Devices.Results, nil
}

// device is the node's device that was allocated, as its pool has it last; nil when it
// is none of the node's, or not the pod's alone.
func (r *resolver) device(ctx context.Context, result *resourcev1.DeviceRequestAllocationResult) (*resourcev1.Device, error) {
	if result.AdminAccess != nil && *result.AdminAccess {
		return nil, nil
	}
	all, err := r.driverSlices(ctx, result.Driver)
	if err != nil {
		return nil, err
	}
	var found *resourcev1.Device
	var generation int64
	for i := range all {
		spec := &all[i].Spec
		if !r.isOwn(spec, result) || found != nil && spec.Pool.Generation <= generation {
			continue
		}
		isIt := func(device resourcev1.Device) bool { return device.Name == result.Device }
		if place := slices.IndexFunc(spec.Devices, isIt); place >= 0 {
			found, generation = &spec.Devices[place], spec.Pool.Generation
		}
	}
	return found, nil
}

func (r *resolver) isOwn(spec *resourcev1.ResourceSliceSpec, result *resourcev1.DeviceRequestAllocationResult) bool {
	return spec.Driver == result.Driver && spec.Pool.Name == result.Pool && spec.NodeName != nil && *spec.NodeName == r.node
}

func (r *resolver) driverSlices(ctx context.Context, driver string) ([]resourcev1.ResourceSlice, error) {
	if known, ok := r.slices[driver]; ok {
		return known, nil
	}
	all, err := r.reader.Slices(ctx, driver, r.node)
	if err != nil {
		return nil, fmt.Errorf("listing the ResourceSlices of driver %s and node %s: %w", driver, r.node, err)
	}
	r.slices[driver] = all
	return all, nil
}

// stringOf is an attribute of a device; empty when there is none, or no string.
func stringOf(device *resourcev1.Device, attribute resourcev1.QualifiedName) string {
	if device == nil {
		return ""
	}
	if value := device.Attributes[attribute].StringValue; value != nil {
		return *value
	}
	return ""
}
