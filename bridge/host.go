// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

const (
	// portTimeout bounds the wait for a port to come up, which takes the kernel's
	// link watch a second at most (linkwatch_schedule_work).
	portTimeout = 3 * time.Second
	// portInterval is how often it is looked at.
	portInterval = 10 * time.Millisecond
)

var (
	// ErrAddressConflict means that the gateway has an address that is in the way
	// of the network's, and the network does not force it.
	ErrAddressConflict = errors.New("the gateway has another address, and forceAddress is not set")
	// ErrNotPort means that the host's end is not a port of the bridge any more.
	ErrNotPort = errors.New("not a port of the bridge")
	// ErrPortDown means that the host's end did not come up although both ends were
	// set up.
	ErrPortDown = errors.New("the port does not come up")
)

// Owner is whom masquerade rules are for. The three together are unique on a
// node.
type Owner struct {
	// Network is the name of the CNI network.
	Network string
	// ContainerID is CNI's.
	ContainerID string
	// Interface is the name of the pod's end.
	Interface string
}

// ConfigureHost sets up the host's side of an interface: its port and the
// bridge up, and, as the network has it, gateway addresses, forwarding and
// masquerade rules. The result is Complete's; when the gateway is in a VLAN, the
// interface that carries its addresses is appended to the result's.
//
// An address that is in the way is found before anything is touched. What is the
// interface's own, Delete removes; the bridge, its addresses and forwarding stay.
// The addresses are usable at once.
func (c *Config) ConfigureHost(host *netns.Namespace, id Owner, hostEnd string, result *current.Result) error {
	bridge, err := c.find(host)
	if err != nil {
		return err
	}
	port, err := netif.Find(host, hostEnd)
	if err != nil {
		return err
	}
	if port.Attrs().MasterIndex != bridge.Index {
		return fmt.Errorf("%s on %s: %w", hostEnd, c.Bridge, ErrNotPort)
	}
	gateways, err := c.gateways(result)
	if err != nil {
		return err
	}
	if err := c.checkConflicts(host, gateways); err != nil {
		return err
	}
	if err := c.up(host, bridge, port); err != nil {
		return err
	}
	if err := c.configureGateway(host, bridge, gateways, result); err != nil {
		return err
	}
	if !c.masquerades() {
		return nil
	}
	return c.setMasquerade(host, id, result)
}

func (c *Config) up(host *netns.Namespace, bridge, port netlink.Link) error {
	h := host.Netlink()
	if c.PromiscMode {
		if err := h.SetPromiscOn(bridge); err != nil {
			return fmt.Errorf("setting %s promiscuous: %w", c.Bridge, err)
		}
	}
	if err := ignoreAdvertisements(host, bridge); err != nil {
		return err
	}
	for _, link := range []netlink.Link{bridge, port} {
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("setting %s up: %w", link.Attrs().Name, err)
		}
	}
	return nil
}

// Settle waits, for three seconds at most, until the port forwards, which it does
// soon after both ends are up. There is nothing to wait for when the pod's end
// stays down. The error is ErrPortDown.
func (c *Config) Settle(host *netns.Namespace, hostEnd string) error {
	if c.DisableContainerInterface {
		return nil
	}
	for deadline := time.Now().Add(portTimeout); ; time.Sleep(portInterval) {
		port, err := netif.Find(host, hostEnd)
		if err != nil {
			return err
		}
		state := port.Attrs().OperState
		switch {
		case state == netlink.OperUp:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s on %s: %w: its state is %s", hostEnd, c.Bridge, ErrPortDown, state)
		}
	}
}

// gateways lists the addresses that the gateway is to have, each with the length
// of its subnet's prefix.
func (c *Config) gateways(result *current.Result) ([]netip.Prefix, error) {
	if !c.Layer3 || !c.IsGateway {
		return nil, nil
	}
	var gateways []netip.Prefix
	for _, ip := range result.IPs {
		prefix, err := prefixOf(net.IPNet{IP: ip.Gateway, Mask: ip.Address.Mask})
		if err != nil {
			return nil, fmt.Errorf("gateway %s of %s: %w", ip.Gateway, &ip.Address, err)
		}
		if !slices.Contains(gateways, prefix) {
			gateways = append(gateways, prefix)
		}
	}
	return gateways, nil
}

func (c *Config) gatewayName() string {
	if c.VLAN == 0 {
		return c.Bridge
	}
	return vlanGatewayName(c.Bridge, c.VLAN)
}

func vlanGatewayName(bridge string, vlan uint16) string { return fmt.Sprintf("%s.%d", bridge, vlan) }

func (c *Config) checkConflicts(host *netns.Namespace, gateways []netip.Prefix) error {
	if len(gateways) == 0 || c.ForceAddress {
		return nil
	}
	device, err := netif.Find(host, c.gatewayName())
	if errors.Is(err, netif.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, gateway := range gateways {
		if _, err := c.obstacles(host, device, gateway); err != nil {
			return err
		}
	}
	return nil
}

// obstacles lists the addresses that must go before the gateway gets its own:
// any other of IPv4, and those of IPv6 whose subnets overlap. They are an error
// unless the network forces its address. nil is for one that the gateway has.
func (c *Config) obstacles(host *netns.Namespace, device netlink.Link, gateway netip.Prefix) ([]netlink.Addr, error) {
	held, err := addressesOf(host, device, gateway)
	if err != nil {
		return nil, err
	}
	var obstacles []netlink.Addr
	for _, a := range held {
		prefix, err := prefixOf(*a.IPNet)
		switch {
		case err != nil:
		case prefix == gateway:
			return nil, nil
		case gateway.Addr().Is4() || prefix.Overlaps(gateway):
			obstacles = append(obstacles, a)
		}
	}
	if len(obstacles) > 0 && !c.ForceAddress {
		return nil, fmt.Errorf("giving %s the address %s: it has %s: %w", device.Attrs().Name, gateway, obstacles[0].IPNet, ErrAddressConflict)
	}
	return obstacles, nil
}

// addressesOf lists the device's addresses of the gateway's family.
func addressesOf(host *netns.Namespace, device netlink.Link, gateway netip.Prefix) ([]netlink.Addr, error) {
	family := netlink.FAMILY_V6
	if gateway.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	held, err := netns.Dump(func() ([]netlink.Addr, error) { return host.Netlink().AddrList(device, family) })
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of %s: %w", device.Attrs().Name, err)
	}
	return held, nil
}

func (c *Config) configureGateway(host *netns.Namespace, bridge *netlink.Bridge, gateways []netip.Prefix, result *current.Result) error {
	if len(gateways) == 0 {
		return nil
	}
	device, err := c.ensureGateway(host, bridge)
	if err != nil {
		return err
	}
	if c.VLAN != 0 {
		result.Interfaces = append(result.Interfaces, describe(device))
	}
	for _, gateway := range gateways {
		if err := c.address(host, device, gateway); err != nil {
			return err
		}
		if err := netif.SetSysctl(host, forwardingOf(gateway), "1"); err != nil {
			return err
		}
	}
	return nil
}

// forwardingOf is the setting that makes the host a router of the gateway's
// family.
func forwardingOf(gateway netip.Prefix) string {
	if gateway.Addr().Is4() {
		return "ipv4/ip_forward"
	}
	return "ipv6/conf/all/forwarding"
}

// ensureGateway finds or makes what carries the gateway's addresses. In a VLAN it
// is a veth pair with one end in that VLAN, as in the reference plugin: it needs no
// VLAN device, and leaves the bridge itself out of the VLAN.
func (c *Config) ensureGateway(host *netns.Namespace, bridge *netlink.Bridge) (netlink.Link, error) {
	if c.VLAN == 0 {
		return bridge, nil
	}
	device, err := netif.Find(host, c.gatewayName())
	if !errors.Is(err, netif.ErrNotFound) {
		return device, err
	}
	device, err = c.makeVLANGateway(host, bridge)
	if errors.Is(err, ErrNameTaken) {
		return netif.Find(host, c.gatewayName())
	}
	if err != nil {
		return nil, fmt.Errorf("creating the gateway %s: %w", c.gatewayName(), err)
	}
	return device, nil
}

func (c *Config) makeVLANGateway(host *netns.Namespace, bridge *netlink.Bridge) (netlink.Link, error) {
	p := pair{in: host, name: c.gatewayName(), mtu: bridge.MTU, vlans: membership{native: c.VLAN, keep: c.PreserveDefaultVLAN}}
	if err := p.create(host); err != nil {
		return nil, err
	}
	err := p.connect(host, bridge)
	for _, link := range []netlink.Link{p.port, p.end} {
		if err == nil {
			err = host.Netlink().LinkSetUp(link)
		}
	}
	if err != nil {
		return nil, errors.Join(err, removeLink(host, p.port))
	}
	return p.end, nil
}

// address gives the gateway an address, usable at once: no host of the bridge has
// a better claim to it.
func (c *Config) address(host *netns.Namespace, device netlink.Link, gateway netip.Prefix) error {
	obstacles, err := c.obstacles(host, device, gateway)
	if err != nil {
		return err
	}
	h, name := host.Netlink(), device.Attrs().Name
	for _, a := range obstacles {
		if err := h.AddrDel(device, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("taking the address %s from %s: %w", a.IPNet, name, err)
		}
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: gateway.Addr().AsSlice(), Mask: net.CIDRMask(gateway.Bits(), gateway.Addr().BitLen())}}
	if gateway.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	err = h.AddrAdd(device, addr)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("giving %s the address %s: %w", name, gateway, err)
	}
	return pin(host, device)
}

// pin keeps a bridge's MAC, which follows that of its ports until it is set.
func pin(host *netns.Namespace, device netlink.Link) error {
	if err := host.Netlink().LinkSetHardwareAddr(device, device.Attrs().HardwareAddr); err != nil {
		return fmt.Errorf("keeping the MAC of %s: %w", device.Attrs().Name, err)
	}
	return nil
}
