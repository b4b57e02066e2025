// SPDX-License-Identifier: Apache-2.0

package attachment

import nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

// NetworkStatus is an entry of the annotation k8s.v1.cni.cncf.io/network-status, with the
// keys of the NPWG specification 1.3, section 5.3, and those that Multus writes besides: mtu
// and gateway. That of the client library leaves out what the specification requires.
type NetworkStatus struct {
	Name      string   `json:"name"`
	Interface string   `json:"interface,omitempty"`
	IPs       []string `json:"ips,omitempty"`
	Mac       string   `json:"mac,omitempty"`
	Mtu       int      `json:"mtu,omitempty"`
	// Default is set for the default network; it is there for every one.
	Default    bool              `json:"default"`
	DNS        nadv1.DNS         `json:"dns,omitempty"`
	DeviceInfo *nadv1.DeviceInfo `json:"device-info,omitempty"`
	// Gateway are those of the network's addresses, DefaultRoute those that the pod
	// asked its default route to have.
	Gateway      []string `json:"gateway,omitempty"`
	DefaultRoute []string `json:"default-route,omitempty"`
}
