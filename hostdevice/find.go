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

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// Where sysfs lists the devices of the two buses.
const (
	pciDevices       = "/sys/bus/pci/devices"
	auxiliaryDevices = "/sys/bus/auxiliary/devices"
)

// userspaceDrivers are those that hand a device to a program and leave nothing of
// it to the kernel's network.
var userspaceDrivers = []string{"vfio-pci", "uio_pci_generic", "igb_uio"}

// ErrElsewhere means that a device is there and its interface is not on the node:
// another pod has it.
var ErrElsewhere = errors.New("has no interface in the node's network namespace: another pod has it, or no driver")

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
		return nil, netif.ErrNotFound
	}
	return link, err
}

func (c *Config) byMAC(host *netns.Namespace) (netlink.Link, error) {
	links, err := linksOf(host)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if bytes.Equal(l.Attrs().HardwareAddr, c.HWAddr) {
			return l, nil
		}
	}
	return nil, netif.ErrNotFound
}

func linksOf(ns *netns.Namespace) ([]netlink.Link, error) {
	links, err := netns.Dump(ns.Netlink().LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	return links, nil
}

// below finds the interface of a device by its directory in sysfs. A virtio device
// has one more directory in between.
func below(dir string) func(*netns.Namespace) (netlink.Link, error) {
	return func(host *netns.Namespace) (netlink.Link, error) {
		if _, err := os.Stat(dir); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, errors.New("no such device")
			}
			return nil, err
		}
		for _, pattern := range []string{"net/*", "virtio*/net/*"} {
			found, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				return nil, err
			}
			if len(found) > 0 {
				return listed(host, found[0])
			}
		}
		return nil, ErrElsewhere
	}
}

// listed is the interface that sysfs lists at path. sysfs shows the namespace in
// which it was mounted: where that is not the node's, another interface of that
// name must not be taken.
func listed(host *netns.Namespace, path string) (netlink.Link, error) {
	link, err := netif.Find(host, filepath.Base(path))
	if errors.Is(err, netif.ErrNotFound) {
		return nil, ErrElsewhere
	}
	if err != nil {
		return nil, err
	}
	index, err := os.ReadFile(filepath.Join(path, "ifindex"))
	if err != nil {
		return nil, err
	}
	if string(bytes.TrimSpace(index)) != fmt.Sprint(link.Attrs().Index) {
		return nil, ErrElsewhere
	}
	return link, nil
}
