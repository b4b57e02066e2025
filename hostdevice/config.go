// SPDX-License-Identifier: Apache-2.0

package hostdevice

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/weir-cni/weir/netif"
)

// document is what of a CNI network configuration is host-device's.
type document struct {
	Device        string `json:"device"`
	HWAddr        string `json:"hwaddr"`
	KernelPath    string `json:"kernelpath"`
	PCIBusID      string `json:"pciBusID"`
	RuntimeConfig struct {
		DeviceID string `json:"deviceID"`
		MAC      string `json:"mac"`
	} `json:"runtimeConfig"`
}

var (
	// pciAddress is domain:bus:device.function, as the kernel writes it.
	pciAddress = regexp.MustCompile(`^[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$`)
	// auxiliaryName is driver.device.number, as the auxiliary bus has it.
	auxiliaryName = regexp.MustCompile(`^[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+\.[0-9]+$`)
)

// devicesRoot is where the kernel keeps devices in sysfs.
const devicesRoot = "/sys/devices/"

// Parse reads a CNI network configuration, runtimeConfig included. Of the keys that
// name the device the first goes before the others: device, hwaddr, kernelpath,
// pciBusID. runtimeConfig.deviceID, the address of a PCI device or the name of an
// auxiliary one, takes the place of pciBusID. runtimeConfig.mac is the MAC that the
// device is to have in the pod. Unknown keys are ignored. Errors are
// netif.FieldErrors.
func Parse(config []byte) (*Config, error) {
	var d document
	if err := netif.Decode(config, &d); err != nil {
		return nil, err
	}
	c := &Config{Device: d.Device, KernelPath: d.KernelPath, PCIBusID: d.PCIBusID}
	switch id := d.RuntimeConfig.DeviceID; {
	case id == "":
	case pciAddress.MatchString(id):
		c.PCIBusID = id
	case auxiliaryName.MatchString(id):
		c.PCIBusID, c.Auxiliary = "", id
	default:
		return nil, netif.NewFieldError("runtimeConfig.deviceID", id, errors.New("is neither a PCI address nor the name of an auxiliary device"))
	}
	if d.HWAddr != "" {
		mac, err := net.ParseMAC(d.HWAddr)
		if err != nil {
			return nil, netif.NewFieldError("hwaddr", d.HWAddr, err)
		}
		c.HWAddr = mac
	}
	mac, err := netif.ChooseMAC(netif.MACSource{Field: "runtimeConfig.mac", Value: d.RuntimeConfig.MAC})
	if err != nil {
		return nil, err
	}
	c.MAC = mac
	return c, c.validateText()
}

func (c *Config) validateText() error {
	switch {
	case c.Device == "" && c.HWAddr == nil && c.KernelPath == "" && c.PCIBusID == "" && c.Auxiliary == "":
		return netif.NewFieldError("device", nil, errors.New("no device is named: want device, hwaddr, kernelpath, pciBusID or deviceID"))
	case c.PCIBusID != "" && !pciAddress.MatchString(c.PCIBusID):
		return netif.NewFieldError("pciBusID", c.PCIBusID, errors.New("is no PCI address, such as 0000:3b:00.1"))
	case c.KernelPath != "" && (!strings.HasPrefix(c.KernelPath, devicesRoot) || filepath.Clean(c.KernelPath) != c.KernelPath):
		return netif.NewFieldError("kernelpath", c.KernelPath, fmt.Errorf("is no path below %s", devicesRoot))
	}
	if c.Device == "" {
		return nil
	}
	if err := netif.ValidateName(c.Device); err != nil {
		return netif.NewFieldError("device", nil, err)
	}
	return nil
}
