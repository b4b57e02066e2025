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

var (
	// ErrInUse means that the node itself needs a device.
	ErrInUse = errors.New("the node uses it")
	// ErrImmovable means that the kernel lets a device into no other network
	// namespace.
	ErrImmovable = errors.New("the kernel lets it into no other network namespace")
)

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
	// MAC is the one to have in the pod. Optional: its own.
	MAC net.HardwareAddr
}

// Validate says why the device could not be moved now, touching nothing: it is not
// there, the node uses it, or the kernel does not let it go. What it carries in other
// network namespaces is not the node's to see. Errors are netif.FieldErrors.
func (c *Config) Validate(host *netns.Namespace) error {
	if c.IsUserspace() {
		return nil
	}
	link, err := c.find(host)
	if err != nil {
		return err
	}
	for _, check := range []func(*netns.Namespace, netlink.Link) error{unused, withoutDefaultRoute, movable} {
		if err := check(host, link); err != nil {
			field, value, _ := c.key()
			return netif.NewFieldError(field, value, err)
		}
	}
	return nil
}

// Move takes the device, which is as it was saved, into the pod: down, without
// addresses, under the given name, with the MAC asked for, its name on the node as
// its alias. On error it is back.
func (c *Config) Move(host, pod *netns.Namespace, name string, s *Saved) (*current.Interface, error) {
	if err := netif.ValidateName(name); err != nil {
		return nil, err
	}
	link, err := c.find(host)
	if err != nil {
		return nil, err
	}
	if !s.isOf(link, name) || link.Attrs().Name != s.Name {
		return nil, fmt.Errorf("%s is another device than the one that was looked at", link.Attrs().Name)
	}
	mac, err := c.move(host, pod, link, name, s)
	if err != nil {
		err = fmt.Errorf("moving %s into the pod as %s: %w", s.Name, name, err)
		return nil, errors.Join(err, Restore(host, pod, name, s))
	}
	return &current.Interface{Name: name, Mac: mac.String(), Mtu: s.MTU, Sandbox: pod.Path()}, nil
}

func (c *Config) move(host, pod *netns.Namespace, link netlink.Link, name string, s *Saved) (net.HardwareAddr, error) {
	if err := s.sendOff(host, link); err != nil {
		return nil, err
	}
	if err := host.Netlink().LinkSetNsFd(link, pod.Fd()); err != nil {
		return nil, explain(err)
	}
	arrived, err := netif.Find(pod, s.Temporary)
	if err != nil {
		return nil, err
	}
	mac := arrived.Attrs().HardwareAddr
	if c.MAC != nil {
		mac = c.MAC
		if err := pod.Netlink().LinkSetHardwareAddr(arrived, mac); err != nil {
			return nil, fmt.Errorf("setting its MAC to %s: %w", mac, err)
		}
	}
	if err := pod.Netlink().LinkSetName(arrived, name); err != nil {
		return nil, fmt.Errorf("naming it %s: %w", name, err)
	}
	return mac, nil
}

// sendOff makes a device ready to change namespaces: marked, down, and with a name
// that neither of them has. The mark comes first: what bears none was not begun with.
func (s *Saved) sendOff(from *netns.Namespace, link netlink.Link) error {
	h := from.Netlink()
	if err := h.LinkSetAlias(link, s.Name); err != nil {
		return fmt.Errorf("setting its alias to %q: %w", s.Name, err)
	}
	if err := h.LinkSetDown(link); err != nil {
		return fmt.Errorf("setting it down: %w", err)
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
		return fmt.Errorf("%w: %w", ErrImmovable, err)
	}
	return err
}

// Check compares the device in the pod with what was moved; differences are
// netif.DriftErrors. It changes nothing.
func Check(pod *netns.Namespace, name string, s *Saved) error {
	link, err := netif.FindKind(pod, name, s.Kind)
	if err != nil {
		return err
	}
	if !s.isOf(link, name) {
		return &netif.DriftError{Interface: name, What: "device", Got: "another", Want: s.Name}
	}
	return nil
}
