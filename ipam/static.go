// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// staticConfig is the ipam section of static.
type staticConfig struct {
	Addresses []addressConfig `json:"addresses"`
	Routes    []routeConfig   `json:"routes"`
	DNS       types.DNS       `json:"dns"`
}

type addressConfig struct {
	Address string `json:"address"`
	Gateway string `json:"gateway"`
}

// address is one address of an interface; text is where it came from.
type address struct {
	text

	host    netip.Prefix
	gateway netip.Addr
}

// static hands out what its configuration says. It keeps no state.
type static struct {
	addresses []address
	routes    []*types.Route
	dns       types.DNS
}

var _ Plugin = (*static)(nil)

func parseStatic(config []byte, args string) (*static, error) {
	var n network[staticConfig]
	if err := decode(config, &n); err != nil {
		return nil, err
	}
	addresses, err := chooseAddresses(&n, args)
	if err != nil {
		return nil, err
	}
	if err := checkVersion(n.CNIVersion, hosts(addresses)); err != nil {
		return nil, err
	}
	routes, err := parseRoutes(n.IPAM.Routes)
	if err != nil {
		return nil, err
	}
	return &static{addresses: addresses, routes: routes, dns: n.IPAM.DNS}, nil
}

// chooseAddresses picks among the sources as the reference plugin does: runtimeConfig replaces all
// else, args.cni replaces what is configured, and CNI_ARGS adds to that. Every request must be
// valid, used or not; what is configured is looked at only if it is used.
func chooseAddresses(n *network[staticConfig], args string) ([]address, error) {
	byRuntime, err := parseHosts(list("runtimeConfig.ips", n.RuntimeConfig.IPs))
	if err != nil {
		return nil, err
	}
	byArgs, err := parseHosts(list("args.cni.ips", n.Args.CNI.IPs))
	if err != nil {
		return nil, err
	}
	byEnv, err := envAddresses(args)
	switch {
	case err != nil:
		return nil, err
	case len(byRuntime) > 0:
		return byRuntime, nil
	case len(byArgs) > 0:
		return byArgs, nil
	}
	configured, err := n.IPAM.parse()
	if err != nil {
		return nil, err
	}
	return merge(configured, byEnv)
}

func (c *staticConfig) parse() ([]address, error) {
	values := make([]text, len(c.Addresses))
	for i, config := range c.Addresses {
		values[i] = text{fmt.Sprintf("ipam.addresses[%d].address", i), config.Address}
	}
	addresses, err := parseHosts(values)
	if err != nil {
		return nil, err
	}
	for i, config := range c.Addresses {
		gateway := text{fmt.Sprintf("ipam.addresses[%d].gateway", i), config.Gateway}
		if addresses[i].gateway, err = gateway.gatewayOf(addresses[i].host); err != nil {
			return nil, err
		}
	}
	return addresses, nil
}

// gatewayOf does not ask for a gateway within the subnet: one that is on the link suffices.
func (t text) gatewayOf(host netip.Prefix) (netip.Addr, error) {
	gateway, err := t.optionalAddr()
	if err != nil {
		return netip.Addr{}, err
	}
	if gateway.IsValid() && gateway.Is4() != host.Addr().Is4() {
		return netip.Addr{}, t.bad(fmt.Errorf("%w: the address is %s", ErrFamily, host))
	}
	return gateway, nil
}

// envAddresses reads IP and GATEWAY, each a comma-separated list. A gateway goes to the addresses
// of IP in whose subnet it is, and nowhere else.
func envAddresses(args string) ([]address, error) {
	env, err := decodeArgs(args)
	if err != nil {
		return nil, err
	}
	addresses, err := parseHosts(split("CNI_ARGS.IP", env.IP))
	if err != nil {
		return nil, err
	}
	for _, value := range split("CNI_ARGS.GATEWAY", env.GATEWAY) {
		gateway, err := value.addr()
		if err != nil {
			return nil, err
		}
		for i := range addresses {
			if addresses[i].host.Contains(gateway) {
				addresses[i].gateway = gateway
			}
		}
	}
	return addresses, nil
}

// parseHosts parses one list of addresses, in which none may be twice.
func parseHosts(values []text) ([]address, error) {
	addresses := make([]address, 0, len(values))
	seen := make(map[netip.Addr]bool, len(values))
	for _, value := range values {
		host, err := value.hostPrefix()
		if err != nil {
			return nil, err
		}
		if seen[host.Addr()] {
			return nil, value.bad(ErrDuplicate)
		}
		seen[host.Addr()] = true
		addresses = append(addresses, address{text: value, host: host})
	}
	return addresses, nil
}

// merge adds to the configured addresses those that CNI_ARGS gives. One that both give is one
// address, because the kernel has no place for a second.
func merge(configured, added []address) ([]address, error) {
	for _, a := range added {
		i := slices.IndexFunc(configured, func(c address) bool { return c.host.Addr() == a.host.Addr() })
		switch {
		case i < 0:
			configured = append(configured, a)
		case configured[i].host != a.host:
			return nil, a.bad(fmt.Errorf("%w: %s is %s", ErrDuplicate, configured[i].field, configured[i].host))
		case a.gateway.IsValid():
			configured[i].gateway = a.gateway
		}
	}
	if len(configured) == 0 {
		return nil, &FieldError{Field: "ipam.addresses", Err: ErrNoAddress}
	}
	return configured, nil
}

func hosts(addresses []address) []netip.Addr {
	addrs := make([]netip.Addr, len(addresses))
	for i, a := range addresses {
		addrs[i] = a.host.Addr()
	}
	return addrs
}

// Add implements Plugin.
func (s *static) Add(context.Context, Request) (*current.Result, error) {
	result := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Routes:     copyRoutes(s.routes),
		DNS:        *s.dns.Copy(),
	}
	for _, a := range s.addresses {
		result.IPs = append(result.IPs, &current.IPConfig{Address: ipNet(a.host), Gateway: a.gateway.AsSlice()})
	}
	return result, nil
}

// Check implements Plugin: every address must be in prevResult, with its gateway if it has one.
func (s *static) Check(_ context.Context, req Request) error {
	prev, err := prevResult(req.Config)
	if err != nil {
		return err
	}
	for _, a := range s.addresses {
		i := slices.IndexFunc(prev.IPs, func(ip *current.IPConfig) bool {
			return ip.Address.IP.Equal(a.host.Addr().AsSlice())
		})
		if i < 0 {
			return &FieldError{Field: "prevResult.ips", Value: a.host.String(), Err: ErrMissing}
		}
		if a.gateway.IsValid() && !prev.IPs[i].Gateway.Equal(a.gateway.AsSlice()) {
			return &FieldError{
				Field: fmt.Sprintf("prevResult.ips[%d].gateway", i), Value: prev.IPs[i].Gateway.String(),
				Err: fmt.Errorf("%w: %s has the gateway %s", ErrInvalid, a.host, a.gateway),
			}
		}
	}
	return nil
}

// Del implements Plugin. There is nothing to release.
func (s *static) Del(context.Context, Request) error { return nil }
