// SPDX-License-Identifier: Apache-2.0

package macvlan

import (
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
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

// arguments are what of CNI_ARGS is macvlan's.
type arguments struct {
	types.CommonArgs
	MAC types.UnmarshallableString
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

// chooseMAC checks the MACs that are overruled as well.
func (d *document) chooseMAC(args string) (net.HardwareAddr, error) {
	given := arguments{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args, &given); err != nil {
		return nil, netif.NewFieldError("CNI_ARGS", args, err)
	}
	var chosen net.HardwareAddr
	for _, source := range []struct{ field, value string }{
		{"mac", d.MAC},
		{"CNI_ARGS MAC", string(given.MAC)},
		{"runtimeConfig.mac", d.RuntimeConfig.MAC},
	} {
		if source.value == "" {
			continue
		}
		mac, err := net.ParseMAC(source.value)
		if err == nil {
			err = validMAC(mac)
		}
		if err != nil {
			return nil, macError(source.field, source.value, err)
		}
		chosen = mac
	}
	return chosen, nil
}

// validMAC says why an interface could not have the MAC (is_valid_ether_addr).
func validMAC(mac net.HardwareAddr) error {
	switch {
	case len(mac) != 6:
		return fmt.Errorf("is %d bytes long, want 6", len(mac))
	case mac[0]&1 != 0:
		return errors.New("is a group's, not one interface's")
	case [6]byte(mac) == [6]byte{}:
		return errors.New("is all zero")
	}
	return nil
}

func macError(field, value string, err error) error {
	return netif.NewFieldError(field, value, err)
}
