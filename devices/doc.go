// SPDX-License-Identifier: Apache-2.0

// Package devices finds out which devices of the node are a pod's, and hands on what
// is known of them.
//
// A pod gets devices in two ways, and Node asks for both: the kubelet gives it those
// of device plugins (Kubelet), the scheduler those of ResourceClaims (Claimed). Either
// way a device has an ID, such as a PCI address, and belongs to a resource, which a
// network names in its annotation k8s.v1.cni.cncf.io/resourceName.
//
// What more is known of a device stands in a file that its device plugin writes and
// that is copied for the plugins of the network (Info), as the NPWG Device
// Information Specification 1.1.0 has it.
package devices
