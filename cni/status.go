// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"fmt"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/weir-cni/weir/state"
)

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

// NetworkStatus is the annotation k8s.v1.cni.cncf.io/network-status of a sandbox
// (NPWG specification 1.3, section 5): an entry for each network, in order, with what is
// known of its device. As Multus writes them, addresses come without their prefix
// length, and an auxiliary chain that made no interface has no entry.
func (p *Plugin) NetworkStatus(record *state.Record) ([]NetworkStatus, error) {
	status := make([]NetworkStatus, 0, len(record.Delegates))
	for i := range record.Delegates {
		d := &record.Delegates[i]
		result, err := storedResult(d)
		if err != nil {
			return nil, fmt.Errorf("network %s (%s): %w", d.Network, d.Interface, err)
		}
		if d.Auxiliary && madeNothing(result) {
			continue
		}
		entry := statusOf(d, result)
		entry.DeviceInfo = p.deviceInfoOf(record, d)
		status = append(status, entry)
	}
	return status, nil
}

func madeNothing(result *current.Result) bool {
	return result == nil || len(result.Interfaces) == 0 && len(result.IPs) == 0
}

func statusOf(d *state.Delegate, result *current.Result) NetworkStatus {
	s := NetworkStatus{Name: d.Network, Interface: d.Interface, Default: d.Default}
	for _, gateway := range d.Gateways {
		s.DefaultRoute = append(s.DefaultRoute, gateway.String())
	}
	if result == nil {
		return s
	}
	s.DNS = nadv1.DNS{
		Nameservers: result.DNS.Nameservers,
		Domain:      result.DNS.Domain,
		Search:      result.DNS.Search,
		Options:     result.DNS.Options,
	}
	place := slices.IndexFunc(result.Interfaces, func(i *current.Interface) bool {
		return i.Sandbox != "" && i.Name == d.Interface
	})
	if place >= 0 {
		s.Mac, s.Mtu = result.Interfaces[place].Mac, result.Interfaces[place].Mtu
	}
	for _, ip := range result.IPs {
		if ip.Interface != nil && place >= 0 && *ip.Interface != place {
			continue
		}
		s.IPs = append(s.IPs, ip.Address.IP.String())
		if ip.Gateway != nil {
			s.Gateway = append(s.Gateway, ip.Gateway.String())
		}
	}
	return s
}
