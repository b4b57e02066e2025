// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// network is what the types that run in process read of a network configuration. Addresses are
// strings here because the errors of a decoder that parses them do not name the field.
type network[T any] struct {
	Name          string `json:"name"`
	CNIVersion    string `json:"cniVersion"`
	IPAM          T      `json:"ipam"`
	RuntimeConfig struct {
		IPs      []string        `json:"ips"`
		IPRanges [][]rangeConfig `json:"ipRanges"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
}

// routeConfig has the keys of a route in CNI spec 1.1.
type routeConfig struct {
	Dst      string `json:"dst"`
	GW       string `json:"gw"`
	MTU      int    `json:"mtu"`
	AdvMSS   int    `json:"advmss"`
	Priority int    `json:"priority"`
	Table    *int   `json:"table"`
	Scope    *int   `json:"scope"`
}

// envArgs has the keys of CNI_ARGS that are about addresses, by the names of its fields.
type envArgs struct {
	types.CommonArgs
	IP      types.UnmarshallableString
	GATEWAY types.UnmarshallableString
}

// text is a string and the field in which it was found.
type text struct{ field, value string }

func decode(config []byte, into any) error {
	err := json.Unmarshal(config, into)
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &FieldError{Field: mismatch.Field, Err: fmt.Errorf("%w: holds a JSON %s", ErrInvalid, mismatch.Value)}
	}
	if err != nil {
		return &FieldError{Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	return nil
}

func decodeArgs(args string) (envArgs, error) {
	var env envArgs
	if err := types.LoadArgs(args, &env); err != nil {
		return env, &FieldError{Field: "CNI_ARGS", Value: args, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	return env, nil
}

// list gives each value the field that it has in a JSON array.
func list(field string, values []string) []text {
	texts := make([]text, len(values))
	for i, value := range values {
		texts[i] = text{fmt.Sprintf("%s[%d]", field, i), value}
	}
	return texts
}

// split gives each part of a comma-separated value of CNI_ARGS the field of the whole.
func split(field string, value types.UnmarshallableString) []text {
	if value == "" {
		return nil
	}
	var texts []text
	for part := range strings.SplitSeq(string(value), ",") {
		texts = append(texts, text{field, strings.TrimSpace(part)})
	}
	return texts
}

// bad returns the error of the field that t was found in.
func (t text) bad(err error) error {
	return &FieldError{Field: t.field, Value: t.value, Err: err}
}

// addr parses an address without a prefix. An IPv4 address in IPv6 form becomes IPv4.
func (t text) addr() (netip.Addr, error) {
	if t.value == "" {
		return netip.Addr{}, t.bad(ErrMissing)
	}
	addr, err := netip.ParseAddr(t.value)
	if err != nil {
		return netip.Addr{}, t.bad(fmt.Errorf("%w: it is not an IP address", ErrInvalid))
	}
	if addr.Zone() != "" {
		return netip.Addr{}, t.bad(fmt.Errorf("%w: it has a zone", ErrInvalid))
	}
	return addr.Unmap(), nil
}

// optionalAddr is addr, with the zero Addr for an empty value.
func (t text) optionalAddr() (netip.Addr, error) {
	if t.value == "" {
		return netip.Addr{}, nil
	}
	return t.addr()
}

// prefix parses an address with the length of its prefix, and keeps its host part.
func (t text) prefix() (netip.Prefix, error) {
	if !strings.Contains(t.value, "/") {
		if _, err := t.addr(); err != nil {
			return netip.Prefix{}, err
		}
		return netip.Prefix{}, t.bad(ErrNoPrefix)
	}
	prefix, err := netip.ParsePrefix(t.value)
	if err != nil {
		return netip.Prefix{}, t.bad(fmt.Errorf("%w: it is not in CIDR notation", ErrInvalid))
	}
	if prefix.Addr().Is4In6() {
		return netip.Prefix{}, t.bad(fmt.Errorf("%w: it is IPv4 in IPv6 form", ErrInvalid))
	}
	return prefix, nil
}

// hostPrefix is prefix for an address that an interface can bear.
func (t text) hostPrefix() (netip.Prefix, error) {
	prefix, err := t.prefix()
	if err != nil {
		return netip.Prefix{}, err
	}
	if addr := prefix.Addr(); addr.IsUnspecified() || addr.IsMulticast() {
		return netip.Prefix{}, t.bad(fmt.Errorf("%w: it is not a unicast address", ErrInvalid))
	}
	return prefix, nil
}

// parseRoutes returns nil for no routes, as the reference plugins do.
func parseRoutes(configs []routeConfig) ([]*types.Route, error) {
	var routes []*types.Route
	for i, config := range configs {
		route, err := config.route(fmt.Sprintf("ipam.routes[%d]", i))
		if err != nil {
			return nil, err
		}
		routes = append(routes, route)
	}
	return routes, nil
}

func (r routeConfig) route(field string) (*types.Route, error) {
	dst, err := r.destination(field)
	if err != nil {
		return nil, err
	}
	hop := text{field + ".gw", r.GW}
	gw, err := hop.optionalAddr()
	if err != nil {
		return nil, err
	}
	// netlink has no way to say it but RTA_VIA, which IPAM results cannot ask for.
	if gw.IsValid() && gw.Is4() != dst.Addr().Is4() {
		return nil, hop.bad(fmt.Errorf("%w: the destination is %s", ErrFamily, dst))
	}
	if err := r.checkNumbers(field); err != nil {
		return nil, err
	}
	return &types.Route{
		Dst: ipNet(dst), GW: gw.AsSlice(), MTU: r.MTU, AdvMSS: r.AdvMSS,
		Priority: r.Priority, Table: r.Table, Scope: r.Scope,
	}, nil
}

func (r routeConfig) destination(field string) (netip.Prefix, error) {
	t := text{field + ".dst", r.Dst}
	dst, err := t.prefix()
	if err != nil {
		return netip.Prefix{}, err
	}
	// The kernel masks the destination of an IPv6 route, but refuses an IPv4 one with host bits.
	if dst.Addr().Is4() && dst != dst.Masked() {
		return netip.Prefix{}, t.bad(fmt.Errorf("%w: it has host bits, the network is %s", ErrInvalid, dst.Masked()))
	}
	return dst, nil
}

// checkNumbers holds the numbers to what rtnetlink has room for.
func (r routeConfig) checkNumbers(field string) error {
	for _, number := range []struct {
		key   string
		value *int
		most  int
	}{
		{"mtu", &r.MTU, math.MaxUint32},
		{"advmss", &r.AdvMSS, math.MaxUint32},
		{"priority", &r.Priority, math.MaxUint32},
		{"table", r.Table, math.MaxUint32},
		{"scope", r.Scope, math.MaxUint8},
	} {
		if number.value != nil && (*number.value < 0 || *number.value > number.most) {
			return &FieldError{
				Field: field + "." + number.key, Value: fmt.Sprint(*number.value),
				Err: fmt.Errorf("%w: not between 0 and %d", ErrInvalid, number.most),
			}
		}
	}
	return nil
}

// checkVersion returns an error if the CNI version of a configuration cannot express these
// addresses: results before 0.3.0 have room for one of each family.
func checkVersion(cniVersion string, addrs []netip.Addr) error {
	var v4 int
	for _, addr := range addrs {
		if addr.Is4() {
			v4++
		}
	}
	if v4 <= 1 && len(addrs)-v4 <= 1 {
		return nil
	}
	if ok, err := version.GreaterThanOrEqualTo(cniVersion, "0.3.0"); err != nil || !ok {
		return &FieldError{
			Field: "cniVersion", Value: cniVersion,
			Err: fmt.Errorf("%w: several addresses of one family need 0.3.0", ErrInvalid),
		}
	}
	return nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
