// SPDX-License-Identifier: Apache-2.0

package macvlan

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netif"
)

// modes are the kernel's for each name, as the reference plugin has them.
var modes = map[string]netlink.MacvlanMode{
	"bridge":   netlink.MACVLAN_MODE_BRIDGE,
	"private":  netlink.MACVLAN_MODE_PRIVATE,
	"vepa":     netlink.MACVLAN_MODE_VEPA,
	"passthru": netlink.MACVLAN_MODE_PASSTHRU,
}

func nameOf(mode netlink.MacvlanMode) string {
	for name, m := range modes {
		if m == mode {
			return name
		}
	}
	return fmt.Sprintf("number %d", mode)
}

// document is what of a CNI network configuration is macvlan's.
type document struct {
	Master          string `json:"master"`
	Mode            string `json:"mode"`
	MTU             int    `json:"mtu"`
	MAC             string `json:"mac"`
	LinkInContainer bool   `json:"linkInContainer"`
	BCQueueLen      uint32 `json:"bcqueuelen"`
	RuntimeConfig   struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
}

// Parse reads a CNI network configuration, runtimeConfig included, and the
// CNI_ARGS of the request. The MAC of runtimeConfig goes before that of CNI_ARGS,
// and that before the key mac. Unknown arguments are ignored. Errors are
// netif.FieldErrors.
func Parse(config []byte, args string) (*Config, error) {
	var d document
	if err := netif.Decode(config, &d); err != nil {
		return nil, err
	}
	if d.Mode == "" {
		d.Mode = "bridge"
	}
	if _, ok := modes[d.Mode]; !ok {
		return nil, netif.NewFieldError("mode", d.Mode, errors.New("want bridge, private, vepa or passthru"))
	}
	if d.MTU < 0 {
		return nil, netif.NewFieldError("mtu", d.MTU, errors.New("is negative"))
	}
	mac, err := d.chooseMAC(args)
	if err != nil {
		return nil, err
	}
	return &Config{
		Master:          d.Master,
		Mode:            d.Mode,
		MTU:             d.MTU,
		MAC:             mac,
		LinkInContainer: d.LinkInContainer,
		BCQueueLen:      d.BCQueueLen,
	}, nil
}

func (d *document) chooseMAC(args string) (net.HardwareAddr, error) {
	fromArgs, err := netif.ArgsMAC(args)
	if err != nil {
		return nil, err
	}
	return netif.ChooseMAC(
		netif.MACSource{Field: "mac", Value: d.MAC},
		fromArgs,
		netif.MACSource{Field: "runtimeConfig.mac", Value: d.RuntimeConfig.MAC},
	)
}
