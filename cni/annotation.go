// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weir-cni/weir/netif"
)

// Selection is a network selection element (NPWG specification 1.3, 4.1.2), with
// two keys that only Multus has.
type Selection struct {
	// Name and Namespace are those of the NetworkAttachmentDefinition.
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	// IPRequest are addresses, each with or without a prefix length.
	IPRequest []string `json:"ips,omitempty"`
	// MacRequest is an Ethernet address.
	MacRequest string `json:"mac,omitempty"`
	// InfinibandGUIDRequest is a GUID of 8 bytes.
	InfinibandGUIDRequest string `json:"infiniband-guid,omitempty"`
	// InterfaceRequest is the interface's name in the pod.
	InterfaceRequest string `json:"interface,omitempty"`
	// InterfaceAlias is an old name of the same; the new one goes before it.
	InterfaceAlias string `json:"interfaceRequest,omitempty"`
	// PortMappingsRequest are ports of the node that lead to the pod.
	PortMappingsRequest []*nadv1.PortMapEntry `json:"portMappings,omitempty"`
	// BandwidthRequest has rates in bits per second and bursts in bits.
	BandwidthRequest *nadv1.BandwidthEntry `json:"bandwidth,omitempty"`
	// CNIArgs are merged into args.cni.
	CNIArgs *map[string]any `json:"cni-args,omitempty"`
	// GatewayRequest are the gateways of the pod's default route; empty, but not
	// nil, leaves the network the default route that it has.
	GatewayRequest []net.IP `json:"default-route,omitempty"`
	// DeviceID names a device of the node, for Multus's capability of that name.
	DeviceID string `json:"deviceID,omitempty"`
	// IPAMClaimReference names an IPAMClaim that holds the addresses.
	IPAMClaimReference string `json:"ipam-claim-reference,omitempty"`
}

// SelectionError is the error of an annotation: it names the element, counted
// from 1, and the key.
type SelectionError struct {
	Annotation string
	Element    int
	Name       string // of the element; may be empty
	Key        string // may be empty, when the element as a whole is wrong
	Err        error
}

func (e *SelectionError) Error() string {
	where := fmt.Sprintf("annotation %s: element %d", e.Annotation, e.Element)
	if e.Name != "" {
		where += fmt.Sprintf(" (%s)", e.Name)
	}
	if e.Key != "" {
		where += ": " + e.Key
	}
	return fmt.Sprintf("%s: %v", where, e.Err)
}

func (e *SelectionError) Unwrap() error { return e.Err }

// ParseSelections reads the annotation k8s.v1.cni.cncf.io/networks in either of
// its forms: a JSON list, or names separated by commas, each [namespace/]name
// [@interface]. A namespace that is not given is the pod's. Every key is checked.
func ParseSelections(annotation, podNamespace string) ([]Selection, error) {
	return parseSelections(nadv1.NetworkAttachmentAnnot, annotation, podNamespace)
}

func parseSelections(annotation, text, namespace string) ([]Selection, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	parse := parseNames
	if strings.ContainsAny(text, `[{"`) {
		parse = parseList
	}
	selections, err := parse(annotation, text)
	if err != nil {
		return nil, err
	}
	for i := range selections {
		s := &selections[i]
		s.Namespace = cmp.Or(s.Namespace, namespace)
		s.InterfaceRequest = cmp.Or(s.InterfaceRequest, s.InterfaceAlias)
		if key, err := checkSelection(s); err != nil {
			return nil, &SelectionError{annotation, i + 1, s.Name, key, err}
		}
		// Of the other annotation the specification does not speak, and OVN-Kubernetes
		// has both in it.
		if err := checkClaim(s); err != nil && annotation == nadv1.NetworkAttachmentAnnot {
			return nil, &SelectionError{annotation, i + 1, s.Name, "ipam-claim-reference", err}
		}
	}
	return selections, checkSoleDefaultRoute(annotation, selections)
}

func parseList(annotation, text string) ([]Selection, error) {
	var elements []json.RawMessage
	if err := json.Unmarshal([]byte(text), &elements); err != nil {
		return nil, fmt.Errorf("annotation %s: not a JSON list: %w", annotation, err)
	}
	selections := make([]Selection, len(elements))
	for i, element := range elements {
		if !bytes.HasPrefix(element, []byte("{")) {
			return nil, &SelectionError{Annotation: annotation, Element: i + 1, Err: errors.New("not a JSON object")}
		}
		if err := json.Unmarshal(element, &selections[i]); err != nil {
			return nil, &SelectionError{annotation, i + 1, selections[i].Name, mistyped(err), err}
		}
	}
	return selections, nil
}

// mistyped is the key whose value is of the wrong type; empty when unknown.
func mistyped(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return wrong.Field
	}
	// encoding/json does not say for which key an address could not be read, and
	// there is but one that it reads as such.
	if _, ok := errors.AsType[*net.ParseError](err); ok {
		return "default-route"
	}
	return ""
}

func parseNames(annotation, text string) ([]Selection, error) {
	var selections []Selection
	for i, element := range strings.Split(text, ",") {
		name, ifname, named := strings.Cut(strings.TrimSpace(element), "@")
		namespace, rest, qualified := strings.Cut(name, "/")
		if !qualified {
			namespace, rest = "", name
		}
		switch {
		case named && ifname == "":
			return nil, &SelectionError{annotation, i + 1, name, "interface", errors.New("empty after @")}
		case qualified && namespace == "":
			return nil, &SelectionError{annotation, i + 1, name, "namespace", errors.New("empty before /")}
		}
		selections = append(selections, Selection{Namespace: namespace, Name: rest, InterfaceRequest: ifname})
	}
	return selections, nil
}

// network is the name of the NetworkAttachmentDefinition with its namespace.
func (s *Selection) network() string { return s.Namespace + "/" + s.Name }

// checkSelection names the first key that is wrong.
func checkSelection(s *Selection) (key string, err error) {
	checks := []struct {
		key   string
		check func() error
	}{
		{"name", func() error { return firstOf(validation.IsDNS1123Subdomain(s.Name), s.Name) }},
		{"namespace", func() error { return firstOf(validation.IsDNS1123Label(s.Namespace), s.Namespace) }},
		{"interface", func() error { return checkInterface(s.InterfaceRequest) }},
		{"ips", func() error { return checkIPs(s.IPRequest) }},
		{"mac", func() error { return checkMAC(s.MacRequest) }},
		{"infiniband-guid", func() error { return checkGUID(s.InfinibandGUIDRequest) }},
		{"portMappings", func() error { return checkPortMappings(s.PortMappingsRequest) }},
		{"bandwidth", func() error { return checkBandwidth(s.BandwidthRequest) }},
		{"default-route", func() error { return checkGateways(s.GatewayRequest) }},
	}
	for _, c := range checks {
		if err := c.check(); err != nil {
			return c.key, err
		}
	}
	return "", nil
}

func firstOf(problems []string, value string) error {
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("%q: %s", value, problems[0])
}

func checkInterface(name string) error {
	if name == "" {
		return nil
	}
	return netif.ValidateName(name)
}

func checkIPs(ips []string) error {
	for _, ip := range ips {
		if _, err := parseIP(ip); err != nil {
			return err
		}
	}
	return nil
}

// parseIP reads an address with or without a prefix length; without one the
// length is that of the whole address.
func parseIP(ip string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(ip); err == nil {
		return prefix, nil
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor one with a prefix length", ip)
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// checkMAC takes what section 4.1.2.1.4 does: an Ethernet address. A group
// address is none that an interface can have.
func checkMAC(mac string) error {
	if mac == "" {
		return nil
	}
	addr, err := net.ParseMAC(mac)
	switch {
	case err != nil || len(addr) != 6:
		return fmt.Errorf("%q is not an Ethernet address", mac)
	case addr[0]&1 != 0:
		return fmt.Errorf("%q is a multicast address", mac)
	case !slices.ContainsFunc(addr, func(b byte) bool { return b != 0 }):
		return fmt.Errorf("%q is all zero", mac)
	}
	return nil
}

func checkGUID(guid string) error {
	if guid == "" {
		return nil
	}
	if addr, err := net.ParseMAC(guid); err != nil || len(addr) != 8 {
		return fmt.Errorf("%q is not a GUID of 8 bytes", guid)
	}
	return nil
}

func checkPortMappings(mappings []*nadv1.PortMapEntry) error {
	for _, m := range mappings {
		switch {
		case m == nil:
			return errors.New("null entry")
		case m.HostPort < 1 || m.HostPort > 65535:
			return fmt.Errorf("hostPort %d is not in 1-65535", m.HostPort)
		case m.ContainerPort < 1 || m.ContainerPort > 65535:
			return fmt.Errorf("containerPort %d is not in 1-65535", m.ContainerPort)
		case !slices.Contains([]string{"", "tcp", "udp", "sctp"}, strings.ToLower(m.Protocol)):
			return fmt.Errorf("protocol %q is none of TCP, UDP, SCTP", m.Protocol)
		case m.HostIP != "" && net.ParseIP(m.HostIP) == nil:
			return fmt.Errorf("hostIP %q is not an address", m.HostIP)
		}
	}
	return nil
}

func checkBandwidth(b *nadv1.BandwidthEntry) error {
	switch {
	case b == nil:
		return nil
	case b.IngressRate < 0 || b.IngressBurst < 0 || b.EgressRate < 0 || b.EgressBurst < 0:
		return errors.New("a rate or burst is negative")
	case b.IngressBurst > 0 && b.IngressRate == 0:
		return errors.New("ingressBurst needs ingressRate")
	case b.EgressBurst > 0 && b.EgressRate == 0:
		return errors.New("egressBurst needs egressRate")
	}
	return nil
}

func checkClaim(s *Selection) error {
	if s.IPAMClaimReference != "" && len(s.IPRequest) > 0 {
		return errors.New("cannot be given together with ips")
	}
	return nil
}
