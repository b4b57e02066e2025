// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/weir-cni/weir/netif"
)

// defaultBridge is the bridge's name where none is given, as the reference
// plugin has it.
const defaultBridge = "cni0"

// maxMTU is the most that the kernel lets a veth have (ETH_MAX_MTU).
const maxMTU = 65535

// maxVLAN is the last VLAN that a port may be in; 4095 is reserved (IEEE 802.1Q
// 9.6).
const maxVLAN = 4094

// document is what of a CNI network configuration is bridge's.
type document struct {
	Bridge                    string          `json:"bridge"`
	IsGateway                 bool            `json:"isGateway"`
	IsDefaultGateway          bool            `json:"isDefaultGateway"`
	ForceAddress              bool            `json:"forceAddress"`
	IPMasq                    bool            `json:"ipMasq"`
	IPMasqBackend             string          `json:"ipMasqBackend"`
	MTU                       int             `json:"mtu"`
	HairpinMode               bool            `json:"hairpinMode"`
	PromiscMode               bool            `json:"promiscMode"`
	VLAN                      int             `json:"vlan"`
	VLANTrunk                 json.RawMessage `json:"vlanTrunk"`
	PreserveDefaultVLAN       bool            `json:"preserveDefaultVlan"`
	MACSpoofCheck             bool            `json:"macspoofchk"`
	EnableDAD                 bool            `json:"enabledad"`
	DisableContainerInterface bool            `json:"disableContainerInterface"`
	PortIsolation             bool            `json:"portIsolation"`
	MAC                       string          `json:"mac"`
	IPAM                      struct {
		Type string `json:"type"`
	} `json:"ipam"`
	Args struct {
		CNI struct {
			MAC string `json:"mac"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
}

// Parse reads a CNI network configuration, runtimeConfig included, and the
// CNI_ARGS of the request. Of the MACs that they may give, the last goes before
// the others: key mac, CNI_ARGS, args.cni.mac, runtimeConfig. Unknown keys and
// arguments are ignored. Errors are netif.FieldErrors.
func Parse(config []byte, args string) (*Config, error) {
	var d document
	if err := netif.Decode(config, &d); err != nil {
		return nil, err
	}
	d.Bridge = cmp.Or(d.Bridge, defaultBridge)
	if err := d.validate(); err != nil {
		return nil, err
	}
	trunk, err := parseTrunk(d.VLANTrunk)
	if err != nil {
		return nil, netif.NewFieldError("vlanTrunk", nil, err)
	}
	mac, err := d.chooseMAC(args)
	if err != nil {
		return nil, err
	}
	return d.config(trunk, mac), nil
}

func (d *document) config(trunk []VLANRange, mac net.HardwareAddr) *Config {
	return &Config{
		Bridge:                    d.Bridge,
		Layer3:                    d.IPAM.Type != "",
		IsGateway:                 d.IsGateway || d.IsDefaultGateway,
		IsDefaultGateway:          d.IsDefaultGateway,
		ForceAddress:              d.ForceAddress,
		IPMasq:                    d.IPMasq,
		IPMasqBackend:             cmp.Or(d.IPMasqBackend, BackendNFTables),
		MTU:                       d.MTU,
		MAC:                       mac,
		HairpinMode:               d.HairpinMode,
		PromiscMode:               d.PromiscMode,
		VLAN:                      uint16(d.VLAN),
		Trunk:                     trunk,
		VLANFiltering:             d.VLAN != 0 || given(d.VLANTrunk),
		PreserveDefaultVLAN:       d.PreserveDefaultVLAN,
		MACSpoofCheck:             d.MACSpoofCheck,
		EnableDAD:                 d.EnableDAD,
		DisableContainerInterface: d.DisableContainerInterface,
		PortIsolation:             d.PortIsolation,
	}
}

// validate looks at what the types allow and the reference plugin refuses, or
// the kernel would.
func (d *document) validate() error {
	if err := netif.ValidateName(d.Bridge); err != nil {
		return netif.NewFieldError("bridge", nil, err)
	}
	switch {
	case d.MTU != 0 && (d.MTU < netif.MinMTU || d.MTU > maxMTU):
		return netif.NewFieldError("mtu", d.MTU, fmt.Errorf("want 0 or %d to %d", netif.MinMTU, maxMTU))
	case d.VLAN < 0 || d.VLAN > maxVLAN:
		return netif.NewFieldError("vlan", d.VLAN, fmt.Errorf("want 0 to %d", maxVLAN))
	case d.HairpinMode && d.PromiscMode:
		return netif.NewFieldError("promiscMode", true, errors.New("excludes hairpinMode"))
	case d.DisableContainerInterface && d.IPAM.Type != "":
		return netif.NewFieldError("disableContainerInterface", true, errors.New("excludes ipam: an interface that stays down has no use for addresses"))
	case d.IPMasq && d.IPMasqBackend != "" && d.IPMasqBackend != BackendNFTables && d.IPMasqBackend != BackendIPTables:
		return netif.NewFieldError("ipMasqBackend", d.IPMasqBackend, errors.New("want nftables or iptables"))
	}
	return d.validateVLANGateway()
}

// validateVLANGateway looks at the name of the interface that would carry the
// gateway's addresses.
func (d *document) validateVLANGateway() error {
	if d.VLAN == 0 || d.IPAM.Type == "" || !d.IsGateway && !d.IsDefaultGateway {
		return nil
	}
	if err := netif.ValidateName(vlanGatewayName(d.Bridge, uint16(d.VLAN))); err != nil {
		return netif.NewFieldError("bridge", d.Bridge, fmt.Errorf("a gateway in a VLAN has its name and number: %w", err))
	}
	return nil
}

func (d *document) chooseMAC(args string) (net.HardwareAddr, error) {
	fromArgs, err := netif.ArgsMAC(args)
	if err != nil {
		return nil, err
	}
	return netif.ChooseMAC(
		netif.MACSource{Field: "mac", Value: d.MAC},
		fromArgs,
		netif.MACSource{Field: "args.cni.mac", Value: d.Args.CNI.MAC},
		netif.MACSource{Field: "runtimeConfig.mac", Value: d.RuntimeConfig.MAC},
	)
}
