// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// convert returns a result of any CNI version as the current one.
func convert(field string, result types.Result) (*current.Result, error) {
	if err := refuseNulls(field, result); err != nil {
		return nil, err
	}
	converted, err := current.NewResultFromResult(result)
	if err != nil {
		return nil, &FieldError{Field: field, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	return converted, nil
}

// refuseNulls returns an error for null in a list of a result: the converters dereference it.
func refuseNulls(field string, result types.Result) error {
	raw, err := json.Marshal(result)
	if err != nil {
		return &FieldError{Field: field, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	var lists struct {
		Interfaces []any `json:"interfaces"`
		IPs        []any `json:"ips"`
		Routes     []any `json:"routes"`
	}
	if err := json.Unmarshal(raw, &lists); err != nil {
		return &FieldError{Field: field, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	for name, values := range map[string][]any{
		"interfaces": lists.Interfaces, "ips": lists.IPs, "routes": lists.Routes,
	} {
		if i := slices.Index(values, nil); i >= 0 {
			return &FieldError{Field: fmt.Sprintf("%s.%s[%d]", field, name, i), Err: ErrMissing}
		}
	}
	return nil
}

// prevResult returns the result that the runtime passes back with Check.
func prevResult(config []byte) (*current.Result, error) {
	var conf types.PluginConf
	if err := decode(config, &conf); err != nil {
		return nil, err
	}
	if conf.RawPrevResult == nil {
		return nil, &FieldError{Field: "prevResult", Err: ErrMissing}
	}
	if err := version.ParsePrevResult(&conf); err != nil {
		return nil, &FieldError{Field: "prevResult", Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	return convert("prevResult", conf.PrevResult)
}

// usable returns an error unless an interface can be configured from the result of an executed
// plugin, and takes away the interfaces, of which such a plugin knows nothing (CNI spec 1.1,
// section 4).
func usable(result *current.Result) error {
	if len(result.IPs) == 0 {
		return &FieldError{Field: "result.ips", Err: ErrNoAddress}
	}
	seen := make(map[string]bool, len(result.IPs))
	for i, ip := range result.IPs {
		field := fmt.Sprintf("result.ips[%d]", i)
		if err := usableIP(field, ip); err != nil {
			return err
		}
		key := ip.Address.IP.String()
		if seen[key] {
			return &FieldError{Field: field + ".address", Value: key, Err: ErrDuplicate}
		}
		seen[key] = true
		ip.Interface = nil
	}
	for i, route := range result.Routes {
		if err := usableRoute(fmt.Sprintf("result.routes[%d]", i), route); err != nil {
			return err
		}
	}
	result.Interfaces = nil
	return nil
}

func usableIP(field string, ip *current.IPConfig) error {
	t := text{field + ".address", ip.Address.String()}
	if ip.Address.IP == nil {
		t.value = ""
	}
	host, err := t.hostPrefix()
	if err != nil {
		return err
	}
	gateway, err := text{field + ".gateway", ipString(ip.Gateway)}.gatewayOf(host)
	if err != nil {
		return err
	}
	ip.Address, ip.Gateway = ipNet(host), gateway.AsSlice()
	return nil
}

func usableRoute(field string, route *types.Route) error {
	config := routeConfig{
		Dst: route.Dst.String(), GW: ipString(route.GW), MTU: route.MTU, AdvMSS: route.AdvMSS,
		Priority: route.Priority, Table: route.Table, Scope: route.Scope,
	}
	if route.Dst.IP == nil {
		config.Dst = ""
	}
	_, err := config.route(field)
	return err
}

func ipString(ip net.IP) string {
	if ip == nil {
		return ""
	}
	return ip.String()
}

func copyRoutes(routes []*types.Route) []*types.Route {
	var copies []*types.Route
	for _, route := range routes {
		copies = append(copies, route.Copy())
	}
	return copies
}
