// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// podIndex is the place of the pod's end in what Create returns.
const podIndex = 2

// ErrNoAddress means that an IPAM plugin was asked and gave no address.
var ErrNoAddress = errors.New("the IPAM plugin gave no address")

// Complete works the network into what the IPAM plugin gave, before any of it is
// applied: every address is that of the pod's end, has a gateway if the network
// is one, the first address of its subnet where the plugin gave none, and each
// family has a default route if the network wants one. It changes only result,
// which begins with the interfaces of Create.
//
// A default route of the plugin stands, with or without a gateway of its own; one
// without gets that of the first address.
func (c *Config) Complete(result *current.Result) error {
	if !c.Layer3 {
		return nil
	}
	if len(result.IPs) == 0 {
		return ErrNoAddress
	}
	for _, ip := range result.IPs {
		if err := c.completeAddress(ip); err != nil {
			return fmt.Errorf("address %s: %w", &ip.Address, err)
		}
		if c.IsDefaultGateway {
			addDefaultRoute(result, ip)
		}
	}
	return nil
}

func (c *Config) completeAddress(ip *current.IPConfig) error {
	prefix, err := prefixOf(ip.Address)
	if err != nil {
		return err
	}
	ip.Interface = current.Int(podIndex)
	if ip.Gateway == nil && c.IsGateway {
		gateway := prefix.Masked().Addr().Next()
		if !gateway.IsValid() {
			return errors.New("its subnet has no address for the gateway")
		}
		ip.Gateway = gateway.AsSlice()
	}
	if ip.Gateway != nil && (ip.Gateway.To4() != nil) != prefix.Addr().Is4() {
		return fmt.Errorf("gateway %s is of the other family", ip.Gateway)
	}
	return nil
}

// prefixOf is the address with its length, IPv4 as such.
func prefixOf(n net.IPNet) (netip.Prefix, error) {
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, errors.New("is of neither IPv4 nor IPv6")
	}
	ones, _ := n.Mask.Size()
	prefix := netip.PrefixFrom(addr.Unmap(), ones)
	if !prefix.IsValid() || len(n.Mask)*8 != prefix.Addr().BitLen() {
		return netip.Prefix{}, fmt.Errorf("has the mask %s, which is none of its family", n.Mask)
	}
	return prefix, nil
}

// addDefaultRoute adds one to the gateway of an address unless its family has one.
func addDefaultRoute(result *current.Result, ip *current.IPConfig) {
	all := net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	if ip.Address.IP.To4() != nil {
		all = net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	}
	for _, route := range result.Routes {
		if ones, _ := route.Dst.Mask.Size(); ones == 0 && (route.Dst.IP.To4() != nil) == (all.IP.To4() != nil) {
			return
		}
	}
	result.Routes = append(result.Routes, &types.Route{Dst: all, GW: ip.Gateway})
}
