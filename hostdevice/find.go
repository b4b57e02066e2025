// SPDX-License-Identifier: Apache-2.0

package hostdevice

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// Where sysfs lists the devices of each bus, and those of two.
const (
	buses            = "/sys/bus"
	pciDevices       = buses + "/pci/devices"
	auxiliaryDevices = buses + "/auxiliary/devices"
)

// userspaceDrivers are those that hand a device to a program and leave nothing of
// it to the kernel's network.
var userspaceDrivers = []string{"vfio-pci", "uio_pci_generic", "igb_uio"}

// ErrElsewhere means that a device is there and its interface is not on the node.
var ErrElsewhere = errors.New("has no interface in the node's network namespace")

// IsUserspace tells that the device has no interface: a program in the pod drives
// it. Only a device that is named by its PCI address can be one.
func (c *Config) IsUserspace() bool {
	if c.Device != "" || c.HWAddr != nil || c.KernelPath != "" || c.PCIBusID == "" {
		return false
	}
	driver, err := filepath.EvalSymlinks(filepath.Join(pciDevices, c.PCIBusID, "driver"))
	return err == nil && slices.Contains(userspaceDrivers, filepath.Base(driver))
}

// find finds the device's interface on the node. Errors are netif.FieldErrors.
func (c *Config) find(host *netns.Namespace) (netlink.Link, error) {
	field, value, find := c.key()
	link, err := find(host)
	if err != nil {
		return nil, netif.NewFieldError(field, value, err)
	}
	return link, nil
}

// key is the field that names the device, what it says, and how to find that.
func (c *Config) key() (field, value string, find func(*netns.Namespace) (netlink.Link, error)) {
	switch {
	case c.Device != "":
		return "device", c.Device, c.byName
	case c.HWAddr != nil:
		return "hwaddr", c.HWAddr.String(), c.byMAC
	case c.KernelPath != "":
		return "kernelpath", c.KernelPath, below(c.KernelPath)
	case c.PCIBusID != "":
		return "pciBusID", c.PCIBusID, below(filepath.Join(pciDevices, c.PCIBusID))
	default:
		return "runtimeConfig.deviceID", c.Auxiliary, below(filepath.Join(auxiliaryDevices, c.Auxiliary))
	}
}

func (c *Config) byName(host *netns.Namespace) (netlink.Link, error) {
	link, err := netif.Find(host, c.Device)
	if errors.Is(err, netif.ErrNotFound) {
		return nil, notOnNode()
	}
	return link, err
}

// notOnNode cannot tell what never was from what is in a pod: to the node both are
// nothing.
func notOnNode() error {
	return fmt.Errorf("%w in the node's network namespace, unless a pod has it", netif.ErrNotFound)
}

// byMAC prefers the device that was made with the MAC to what took it over, such as
// a VLAN on the device.
func (c *Config) byMAC(host *netns.Namespace) (netlink.Link, error) {
	links, err := linksOf(host)
	if err != nil {
		return nil, err
	}
	links = slices.DeleteFunc(links, func(l netlink.Link) bool { return !bytes.Equal(l.Attrs().HardwareAddr, c.HWAddr) })
	if len(links) == 0 {
		return nil, notOnNode()
	}
	own := slices.IndexFunc(links, func(l netlink.Link) bool { return bytes.Equal(l.Attrs().PermHWAddr, c.HWAddr) })
	return links[max(own, 0)], nil
}

func linksOf(ns *netns.Namespace) ([]netlink.Link, error) {
	links, err := netns.Dump(ns.Netlink().LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	return links, nil
}

// below finds the interface of a device by its directory in sysfs, of several the
// first by name. A virtio device has one more directory in between.
//
// Each interface says itself what device it is of (Linux 5.13), and what devices
// there are is the same in every namespace; the names of interfaces in sysfs are
// those of the namespace in which it was mounted.
func below(dir string) func(*netns.Namespace) (netlink.Link, error) {
	return func(host *netns.Namespace) (netlink.Link, error) {
		dir, err := filepath.EvalSymlinks(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errors.New("no such device")
		}
		if err != nil {
			return nil, err
		}
		links, err := linksOf(host)
		if err != nil {
			return nil, err
		}
		links = slices.DeleteFunc(links, func(l netlink.Link) bool { return !isBelow(deviceOf(l.Attrs()), dir) })
		if len(links) == 0 {
			return listedBelow(host, dir)
		}
		return slices.MinFunc(links, func(a, b netlink.Link) int { return strings.Compare(a.Attrs().Name, b.Attrs().Name) }), nil
	}
}

// deviceOf is the directory of the device that an interface is of; empty for one of
// software.
func deviceOf(a *netlink.LinkAttrs) string {
	if a.ParentDev == "" || a.ParentDevBus == "" {
		return ""
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(buses, a.ParentDevBus, "devices", a.ParentDev))
	if err != nil {
		return ""
	}
	return dir
}

func isBelow(device, dir string) bool {
	return device == dir || filepath.Dir(device) == dir && strings.HasPrefix(filepath.Base(device), "virtio")
}

// listedBelow is for kernels whose interfaces do not say what they are of.
func listedBelow(host *netns.Namespace, dir string) (netlink.Link, error) {
	for _, pattern := range []string{"net/*", "virtio*/net/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			return listed(host, dir, found[0])
		}
	}
	return nil, elsewhere(dir)
}

// listed is the interface that sysfs lists at path. Where sysfs is not the node's,
// another interface of that name must not be taken.
func listed(host *netns.Namespace, dir, path string) (netlink.Link, error) {
	link, err := netif.Find(host, filepath.Base(path))
	if errors.Is(err, netif.ErrNotFound) {
		return nil, elsewhere(dir)
	}
	if err != nil {
		return nil, err
	}
	index, err := os.ReadFile(filepath.Join(path, "ifindex"))
	if err != nil {
		return nil, err
	}
	if string(bytes.TrimSpace(index)) != strconv.Itoa(link.Attrs().Index) {
		return nil, elsewhere(dir)
	}
	return link, nil
}

// elsewhere says why a device has no interface on the node.
func elsewhere(dir string) error {
	driver, err := filepath.EvalSymlinks(filepath.Join(dir, "driver"))
	switch {
	case hasInterface(dir):
		return fmt.Errorf("%w: another pod has it", ErrElsewhere)
	case err != nil:
		return fmt.Errorf("%w: no driver is bound to it", ErrElsewhere)
	}
	return fmt.Errorf("%w: its driver, %s, makes none", ErrElsewhere, filepath.Base(driver))
}

// hasInterface tells whether a device has an interface in any namespace: sysfs hides
// those of others, but not the directory that they are in.
func hasInterface(dir string) bool {
	for _, pattern := range []string{"net", "virtio*/net"} {
		if found, err := filepath.Glob(filepath.Join(dir, pattern)); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}
