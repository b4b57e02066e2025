// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// Check compares an interface with the configuration and the result of its
// making: the pair, the port with its flags and VLANs, the bridge, the gateway's
// addresses, forwarding and masquerade rules. It changes nothing; the pod's
// addresses and routes are netif.Check's. Differences are netif.DriftErrors, all
// of them joined.
func (c *Config) Check(host, pod *netns.Namespace, name string, result *current.Result) error {
	bridge, err := c.find(host)
	if errors.Is(err, netif.ErrNotFound) {
		return drift(c.Bridge, "bridge", "missing", "")
	}
	if err != nil {
		return err
	}
	end, err := netif.FindKind(pod, name, endKind)
	if err != nil {
		return err
	}
	gateways, err := c.gateways(result)
	if err != nil {
		return err
	}
	return errors.Join(
		c.checkEnd(end),
		c.checkPort(host, bridge, end, result),
		c.checkBridge(bridge),
		c.checkGateways(host, gateways),
		c.checkMasquerade(host, name, result),
	)
}

func drift(name, what, got, want string) error {
	return &netif.DriftError{Interface: name, What: what, Got: got, Want: want}
}

// compare is nil for what is as wanted.
func compare[T comparable](name, what string, got, want T) error {
	if got == want {
		return nil
	}
	return drift(name, what, fmt.Sprint(got), fmt.Sprint(want))
}

func (c *Config) checkEnd(end netlink.Link) error {
	attrs := end.Attrs()
	errs := []error{netif.CheckMTU(end, c.MTU)}
	if c.MAC != nil && !bytes.Equal(attrs.HardwareAddr, c.MAC) {
		errs = append(errs, drift(attrs.Name, "MAC", attrs.HardwareAddr.String(), c.MAC.String()))
	}
	return errors.Join(errs...)
}

// checkBridge leaves out what a bridge that others share may have besides.
func (c *Config) checkBridge(bridge *netlink.Bridge) error {
	var errs []error
	if bridge.Flags&net.FlagUp == 0 {
		errs = append(errs, drift(c.Bridge, "state", "down", "up"))
	}
	if c.PromiscMode && bridge.Promisc == 0 {
		errs = append(errs, drift(c.Bridge, "promiscuous mode", "off", "on"))
	}
	return errors.Join(errs...)
}

// checkPort finds the host's end by the pod's, whose peer it is.
func (c *Config) checkPort(host *netns.Namespace, bridge *netlink.Bridge, end netlink.Link, result *current.Result) error {
	if len(result.Interfaces) <= podIndex {
		return fmt.Errorf("the result has %d interfaces, not the bridge and both ends", len(result.Interfaces))
	}
	made := result.Interfaces[hostIndex]
	port, err := netif.FindKind(host, made.Name, endKind)
	if err != nil {
		return err
	}
	attrs := port.Attrs()
	errs := []error{
		compare(made.Name, "peer", attrs.ParentIndex, end.Attrs().Index),
		compare(end.Attrs().Name, "peer", end.Attrs().ParentIndex, attrs.Index),
		compare(made.Name, "MAC", attrs.HardwareAddr.String(), made.Mac),
		netif.CheckMTU(port, c.MTU),
	}
	if attrs.Flags&net.FlagUp == 0 {
		errs = append(errs, drift(made.Name, "state", "down", "up"))
	}
	if attrs.MasterIndex != bridge.Index {
		return errors.Join(append(errs, drift(made.Name, "bridge", masterOf(host, port), c.Bridge))...)
	}
	return errors.Join(append(errs, c.checkFlags(host, port), c.checkVLANs(host, port))...)
}

func masterOf(host *netns.Namespace, port netlink.Link) string {
	index := port.Attrs().MasterIndex
	if index == 0 {
		return "none"
	}
	if master, err := host.Netlink().LinkByIndex(index); err == nil {
		return master.Attrs().Name
	}
	return fmt.Sprintf("interface %d", index)
}

func (c *Config) checkFlags(host *netns.Namespace, port netlink.Link) error {
	listed, err := netns.Dump(func() ([]netlink.Protinfo, error) {
		flags, err := host.Netlink().LinkGetProtinfo(port)
		return []netlink.Protinfo{flags}, err
	})
	if err != nil {
		return fmt.Errorf("reading the flags of %s: %w", port.Attrs().Name, err)
	}
	name := port.Attrs().Name
	return errors.Join(
		compare(name, "hairpin mode", listed[0].Hairpin, c.HairpinMode),
		compare(name, "isolation", listed[0].Isolated, c.PortIsolation),
	)
}

// checkVLANs allows for VLANs besides only where the default one is kept.
func (c *Config) checkVLANs(host *netns.Namespace, port netlink.Link) error {
	m := c.membership()
	if m.native == 0 {
		return nil
	}
	held, err := vlansOf(host, port)
	if err != nil {
		return fmt.Errorf("port %s: %w", port.Attrs().Name, err)
	}
	wanted := m.flags()
	if _, ok := wanted[defaultVLAN]; m.keep && !ok {
		delete(held, defaultVLAN)
	}
	var errs []error
	for vid := range uint16(maxVLAN + 1) {
		have, isHeld := held[vid]
		want, isWanted := wanted[vid]
		if isHeld != isWanted || have != want {
			errs = append(errs, drift(port.Attrs().Name, fmt.Sprintf("VLAN %d", vid), membershipName(have, isHeld), membershipName(want, isWanted)))
		}
	}
	return errors.Join(errs...)
}

// flags are those of each VLAN of the port.
func (m membership) flags() map[uint16]uint16 {
	flags := map[uint16]uint16{}
	for _, r := range m.tagged {
		for vid := r.First; vid <= r.Last; vid++ {
			flags[vid] = 0
		}
	}
	flags[m.native] = nativeFlags
	return flags
}

func membershipName(flags uint16, member bool) string {
	switch {
	case !member:
		return "none"
	case flags == nativeFlags:
		return "native"
	case flags == 0:
		return "tagged"
	}
	return "partly native"
}

func (c *Config) checkGateways(host *netns.Namespace, gateways []netip.Prefix) error {
	if len(gateways) == 0 {
		return nil
	}
	device, err := netif.Find(host, c.gatewayName())
	if errors.Is(err, netif.ErrNotFound) {
		return drift(c.gatewayName(), "gateway", "missing", "")
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, gateway := range gateways {
		errs = append(errs, checkGateway(host, device, gateway))
	}
	return errors.Join(errs...)
}

func checkGateway(host *netns.Namespace, device netlink.Link, gateway netip.Prefix) error {
	held, err := addressesOf(host, device, gateway)
	if err != nil {
		return err
	}
	var errs []error
	has := slices.ContainsFunc(held, func(a netlink.Addr) bool {
		prefix, err := prefixOf(*a.IPNet)
		return err == nil && prefix == gateway
	})
	if !has {
		errs = append(errs, drift(device.Attrs().Name, "address "+gateway.String(), "missing", ""))
	}
	forwards, err := sysctl(host, forwardingOf(gateway))
	if err == nil {
		err = compare(device.Attrs().Name, "net/"+forwardingOf(gateway), forwards, 1)
	}
	return errors.Join(append(errs, err)...)
}

func sysctl(host *netns.Namespace, key string) (value int, err error) {
	err = host.Do(func() error {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net", key))
		if err != nil {
			return err
		}
		value, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("reading net/%s: %w", key, err)
	}
	return value, nil
}

func (c *Config) checkMasquerade(host *netns.Namespace, name string, result *current.Result) error {
	if !c.masquerades() {
		return nil
	}
	sources, err := sourcesOf(result)
	if err != nil {
		return err
	}
	missing, err := c.masquerade(host).missing(sources)
	if err != nil {
		return fmt.Errorf("reading the masquerade rules: %w", err)
	}
	var errs []error
	for _, source := range missing {
		errs = append(errs, drift(name, "masquerading of "+source.Addr().String(), "missing", ""))
	}
	return errors.Join(errs...)
}
