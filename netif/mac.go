// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
)

// MACSource is one of the places that may name a MAC.
type MACSource struct {
	// Field is its name in a FieldError.
	Field string
	// Value is the MAC as text; empty for none.
	Value string
}

// ArgsMAC is the MAC that CNI_ARGS names. Other arguments are ignored. The error is
// a FieldError.
func ArgsMAC(args string) (MACSource, error) {
	given := struct {
		types.CommonArgs
		MAC types.UnmarshallableString
	}{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args, &given); err != nil {
		return MACSource{}, NewFieldError("CNI_ARGS", args, err)
	}
	return MACSource{"CNI_ARGS MAC", string(given.MAC)}, nil
}

// ChooseMAC is the MAC of the last source that names one; nil when none does. Those
// that are overruled are checked as well. The error is a FieldError.
func ChooseMAC(sources ...MACSource) (net.HardwareAddr, error) {
	var chosen net.HardwareAddr
	for _, source := range sources {
		if source.Value == "" {
			continue
		}
		mac, err := net.ParseMAC(source.Value)
		if err == nil {
			err = ValidateMAC(mac)
		}
		if err != nil {
			return nil, NewFieldError(source.Field, source.Value, err)
		}
		chosen = mac
	}
	return chosen, nil
}

// ValidateMAC says why an Ethernet interface could not have the MAC, as the kernel
// sees it (is_valid_ether_addr).
func ValidateMAC(mac net.HardwareAddr) error {
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
