// SPDX-License-Identifier: Apache-2.0

package hostdevice

import (
	"errors"
	"fmt"
	"net"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// ErrInUse means that the node itself needs a device.
var ErrInUse = errors.New("the node uses it")

// Config is a network of type host-device. One of the fields names the device.
type Config struct {
	// Device is the interface's name on the node.
	Device string
	// HWAddr is its MAC.
	HWAddr net.HardwareAddr
	// KernelPath is the device's directory below /sys/devices.
	KernelPath string
	// PCIBusID is its PCI address.
	PCIBusID string
	// Auxiliary is its name on the auxiliary bus.
	Auxiliary string
}

// Validate says why the device could not be moved now, touching nothing: it is not
// there, or the node uses it.
func (c *Config) Validate(host *netns.Namespace) error {
	if c.IsUserspace() {
		return nil
	}
	link, err := c.find(host)
	if err != nil {
		return err
	}
	if err := unused(host, link); err != nil {
		field, value, _ := c.key()
		return netif.NewFieldError(field, value, err)
	}
	return nil
}

// unused finds what the node would lose with the interface.
func unused(host *netns.Namespace, link netlink.Link) error {
	a := link.Attrs()
	switch {
	case a.Flags&net.FlagLoopback != 0:
		return fmt.Errorf("%w: it is the loopback interface", ErrInUse)
	case a.MasterIndex != 0:
		return fmt.Errorf("%w: it is a port of %s", ErrInUse, nameOf(host, a.MasterIndex))
	}
	links, err := linksOf(host)
	if err != nil {
		return err
	}
	for _, l := range links {
		other := l.Attrs()
		if other.MasterIndex == a.Index {
			return fmt.Errorf("%w: %s is a port of it", ErrInUse, other.Name)
		}
		if other.ParentIndex == a.Index && other.NetNsID < 0 && l.Type() != "veth" {
			return fmt.Errorf("%w: the %s %s is on it", ErrInUse, l.Type(), other.Name)
		}
	}
	return withoutDefaultRoute(host, link)
}

func nameOf(host *netns.Namespace, index int) string {
	link, err := host.Netlink().LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("interface %d", index)
	}
	return link.Attrs().Name
}

func withoutDefaultRoute(host *netns.Namespace, link netlink.Link) error {
	routes, err := routesOf(host, link)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Table == unix.RT_TABLE_MAIN && (r.Dst == nil || netif.IsDefault(*r.Dst)) {
			return fmt.Errorf("%w: the node's default route is through it", ErrInUse)
		}
	}
	return nil
}

// Move takes the device, which is as it was saved, into the pod: down, without
// addresses, under the given name, its name on the node as its alias. On error it is
// back.
func (c *Config) Move(host, pod *netns.Namespace, name string, s *Saved) (*current.Interface, error) {
	if err := netif.ValidateName(name); err != nil {
		return nil, err
	}
	link, err := c.find(host)
	if err != nil {
		return nil, err
	}
	if !s.isOf(link) || link.Attrs().Name != s.Name {
		return nil, fmt.Errorf("%s is another device than the one that was looked at", link.Attrs().Name)
	}
	made, err := move(host, pod, link, name, s)
	if err != nil {
		err = fmt.Errorf("moving %s into the pod as %s: %w", s.Name, name, err)
		return nil, errors.Join(err, Restore(host, pod, name, s))
	}
	return &current.Interface{Name: name, Mac: made.Attrs().HardwareAddr.String(), Sandbox: pod.Path()}, nil
}

func move(host, pod *netns.Namespace, link netlink.Link, name string, s *Saved) (netlink.Link, error) {
	if err := s.sendOff(host, link, s.Name); err != nil {
		return nil, err
	}
	if err := host.Netlink().LinkSetNsFd(link, pod.Fd()); err != nil {
		return nil, explain(err)
	}
	arrived, err := netif.Find(pod, s.Temporary)
	if err != nil {
		return nil, err
	}
	if err := pod.Netlink().LinkSetName(arrived, name); err != nil {
		return nil, fmt.Errorf("naming it %s: %w", name, err)
	}
	return arrived, nil
}

// sendOff makes a device ready to change namespaces: down, with an alias, and with
// a name that neither of them has.
func (s *Saved) sendOff(from *netns.Namespace, link netlink.Link, alias string) error {
	h := from.Netlink()
	if err := h.LinkSetDown(link); err != nil {
		return fmt.Errorf("setting it down: %w", err)
	}
	if err := h.LinkSetAlias(link, alias); err != nil {
		return fmt.Errorf("setting its alias to %q: %w", alias, err)
	}
	if link.Attrs().Name == s.Temporary {
		return nil
	}
	if err := h.LinkSetName(link, s.Temporary); err != nil {
		return fmt.Errorf("naming it %s: %w", s.Temporary, err)
	}
	return nil
}

// explain says what the kernel meant (dev_change_net_namespace).
func explain(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("the kernel allows this kind of interface no other network namespace: %w", err)
	}
	return err
}

// Check compares the device in the pod with what was moved; differences are
// netif.DriftErrors.
func Check(pod *netns.Namespace, name string, s *Saved) error {
	link, err := netif.FindKind(pod, name, s.Kind)
	if err != nil {
		return err
	}
	if !s.isOf(link) {
		return &netif.DriftError{Interface: name, What: "device", Got: "another", Want: s.Name}
	}
	return nil
}
