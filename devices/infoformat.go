// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
)

var infoVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)

// required is a key that Device Information must have, and the values that it may
// have where not any will do.
type required struct {
	key, value string
	oneOf      []string
}

// parseInfo reads Device Information (specification, section 3). Keys that it does not
// know are let be.
func parseInfo(data []byte) (*nadv1.DeviceInfo, error) {
	info := &nadv1.DeviceInfo{}
	if err := json.Unmarshal(data, info); err != nil {
		return nil, fmt.Errorf("it is no JSON object of Device Information: %w", err)
	}
	if !infoVersion.MatchString(info.Version) {
		return nil, fmt.Errorf("version: %q is not major.minor.patch", info.Version)
	}
	keys, err := requiredKeys(info)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.value == "" {
			return nil, fmt.Errorf("%s: missing", k.key)
		}
		if k.oneOf != nil && !slices.Contains(k.oneOf, k.value) {
			return nil, fmt.Errorf("%s: %q is none of %q", k.key, k.value, k.oneOf)
		}
	}
	return info, nil
}

func requiredKeys(info *nadv1.DeviceInfo) ([]required, error) {
	switch info.Type {
	case nadv1.DeviceInfoTypePCI:
		d := cmp.Or(info.Pci, &nadv1.PciDevice{})
		return []required{{key: "pci.pci-address", value: d.PciAddress}}, nil
	case nadv1.DeviceInfoTypeVDPA:
		d := cmp.Or(info.Vdpa, &nadv1.VdpaDevice{})
		return []required{
			{key: "vdpa.parent-device", value: d.ParentDevice},
			{key: "vdpa.driver", value: d.Driver, oneOf: []string{"vhost", "virtio"}},
			{key: "vdpa.path", value: d.Path},
		}, nil
	case nadv1.DeviceInfoTypeVHostUser:
		d := cmp.Or(info.VhostUser, &nadv1.VhostDevice{})
		return []required{
			{key: "vhost-user.mode", value: d.Mode, oneOf: []string{nadv1.VhostDeviceModeClient, nadv1.VhostDeviceModeServer}},
			{key: "vhost-user.path", value: d.Path},
		}, nil
	case nadv1.DeviceInfoTypeMemif:
		d := cmp.Or(info.Memif, &nadv1.MemifDevice{})
		return []required{
			{key: "memif.role", value: d.Role, oneOf: []string{nadv1.MemifDeviceRoleMaster, nadv1.MemitDeviceRoleSlave}},
			{key: "memif.path", value: d.Path},
			// The specification calls the last one inject-punt, its Go library punt.
			{key: "memif.mode", value: d.Mode, oneOf: []string{nadv1.MemifDeviceModeEthernet, nadv1.MemitDeviceModeIP, "inject-punt", nadv1.MemitDeviceModePunt}},
		}, nil
	case "":
		return nil, errors.New("type: missing")
	default:
		return nil, fmt.Errorf("type: %q is none of pci, vdpa, vhost-user and memif", info.Type)
	}
}
