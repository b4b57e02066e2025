// SPDX-License-Identifier: Apache-2.0

package ipvlan

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netif"
)

// modes are the kernel's for each name, as the reference plugin has them.
var modes = map[string]netlink.IPVlanMode{
	"l2":  netlink.IPVLAN_MODE_L2,
	"l3":  netlink.IPVLAN_MODE_L3,
	"l3s": netlink.IPVLAN_MODE_L3S,
}

func nameOf(mode netlink.IPVlanMode) string {
	for name, m := range modes {
		if m == mode {
			return name
		}
	}
	return fmt.Sprintf("number %d", mode)
}

// document is what of a CNI network configuration is ipvlan's.
type document struct {
	CNIVersion      string         `json:"cniVersion"`
	Master          string         `json:"master"`
	Mode            string         `json:"mode"`
	MTU             int            `json:"mtu"`
	LinkInContainer bool           `json:"linkInContainer"`
	PrevResult      map[string]any `json:"prevResult"`
}

// Parse reads a CNI network configuration. Where it names no master and is
// chained, the master is the one interface of the prevResult. Nothing of
// CNI_ARGS is ipvlan's. Errors are netif.FieldErrors.
func Parse(config []byte, _ string) (*Config, error) {
	var d document
	if err := netif.Decode(config, &d); err != nil {
		return nil, err
	}
	if d.Mode == "" {
		d.Mode = "l2"
	}
	if _, ok := modes[d.Mode]; !ok {
		return nil, netif.NewFieldError("mode", d.Mode, errors.New("want l2, l3 or l3s"))
	}
	if d.MTU < 0 {
		return nil, netif.NewFieldError("mtu", d.MTU, errors.New("is negative"))
	}
	if d.Master == "" && d.PrevResult != nil {
		master, err := d.chainedMaster()
		if err != nil {
			return nil, err
		}
		d.Master = master
	}
	return &Config{Master: d.Master, Mode: d.Mode, MTU: d.MTU, LinkInContainer: d.LinkInContainer}, nil
}

func (d *document) chainedMaster() (string, error) {
	conf := types.PluginConf{CNIVersion: d.CNIVersion, RawPrevResult: d.PrevResult}
	if err := version.ParsePrevResult(&conf); err != nil {
		return "", netif.NewFieldError("prevResult", nil, err)
	}
	result, err := current.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return "", netif.NewFieldError("prevResult", nil, err)
	}
	if len(result.Interfaces) != 1 || result.Interfaces[0] == nil || result.Interfaces[0].Name == "" {
		return "", netif.NewFieldError("master", nil, errors.New("is not given, and prevResult has no single named interface to take"))
	}
	return result.Interfaces[0].Name, nil
}
