// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a list of rules.
const (
	// RulesMax is the number of rules of each direction.
	RulesMax = 64
	// CIDRsMax and PortsMax are the numbers of CIDRs and of ports of a rule.
	CIDRsMax = 16
	PortsMax = 16
	// EntriesMax is the number of Services that the ports of a direction may take: 30 for
	// the worst range, one for a port or a range as 8192-16383.
	EntriesMax = 4096
)

// ErrRule is the error of a rule that cannot be kept.
var ErrRule = errors.New("unusable rule")

// Action is what becomes of a packet.
type Action string

// The actions.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// Direction is the pod's: ingress is what it receives. The empty one is both.
type Direction string

// The directions.
const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

// Rule is one rule of a network's list. What it leaves out, it takes all of.
type Rule struct {
	// Name is that in metrics; without one it is the rule's number in the list.
	Name      string    `json:"name,omitempty"`
	Direction Direction `json:"direction,omitempty"`
	Action    Action    `json:"action"`
	// CIDRs are of the peer: the source of what the pod receives, the destination of
	// what it sends.
	CIDRs []netip.Prefix `json:"cidrs,omitempty"`
	// Protocol is tcp, udp, sctp, icmp (of IPv6 its ICMPv6) or a number.
	Protocol string `json:"protocol,omitempty"`
	// Ports are those of the destination.
	Ports []Ports `json:"ports,omitempty"`
}

// Ports is a range of ports, both ends in it.
type Ports struct {
	First, Last uint16
}

// UnmarshalText reads 80 or 8000-8100.
func (p *Ports) UnmarshalText(text []byte) error {
	first, last, isRange := strings.Cut(string(text), "-")
	if !isRange {
		last = first
	}
	from, err := strconv.ParseUint(first, 10, 16)
	to, errLast := strconv.ParseUint(last, 10, 16)
	switch {
	case err != nil || errLast != nil:
		return fmt.Errorf("%q is neither a port nor a range of ports as 8000-8100", text)
	case from > to:
		return fmt.Errorf("%q ends before it begins", text)
	}
	p.First, p.Last = uint16(from), uint16(to)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (p Ports) MarshalText() ([]byte, error) {
	if p.First == p.Last {
		return fmt.Append(nil, p.First), nil
	}
	return fmt.Appendf(nil, "%d-%d", p.First, p.Last), nil
}

// Parse reads and validates a list of rules as JSON. The error is ErrRule, and names the
// rule and the field.
func Parse(data []byte) ([]Rule, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("%w: rules: want a list of objects", ErrRule)
	}
	rules := make([]Rule, len(raw))
	for i := range raw {
		if err := rules[i].parse(raw[i]); err != nil {
			return nil, fmt.Errorf("%w: rules[%d]%w", ErrRule, i, err)
		}
	}
	if err := validateTogether(rules); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRule, err)
	}
	return rules, nil
}

// parse reads a rule key by key, so that an error can name it.
func (r *Rule) parse(data []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil || fields == nil {
		return errors.New(": want an object")
	}
	targets := map[string]any{
		"name": &r.Name, "direction": &r.Direction, "action": &r.Action,
		"cidrs": &r.CIDRs, "protocol": &r.Protocol, "ports": &r.Ports,
	}
	for name, value := range fields {
		target, known := targets[name]
		if !known {
			return fmt.Errorf(".%s: no such key", name)
		}
		if bytes.Equal(value, []byte("null")) || bytes.Equal(value, []byte("[]")) {
			return fmt.Errorf(".%s: leave it out for all", name)
		}
		if err := json.Unmarshal(value, target); err != nil {
			return fmt.Errorf(".%s: %w", name, err)
		}
	}
	return r.validate()
}

// names are not taken for numbers of rules.
var names = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (r *Rule) validate() error {
	switch {
	case r.Name != "" && !names.MatchString(r.Name):
		return fmt.Errorf(".name: %q: want at most 63 lowercase letters, digits and hyphens, a letter first", r.Name)
	case r.Direction != "" && r.Direction != Ingress && r.Direction != Egress:
		return fmt.Errorf(".direction: %q is neither %q nor %q", r.Direction, Ingress, Egress)
	case r.Action != Allow && r.Action != Deny:
		return fmt.Errorf(".action: %q is neither %q nor %q", r.Action, Allow, Deny)
	case len(r.CIDRs) > CIDRsMax:
		return fmt.Errorf(".cidrs: %d of them, want %d at most", len(r.CIDRs), CIDRsMax)
	case len(r.Ports) > PortsMax:
		return fmt.Errorf(".ports: %d of them, want %d at most", len(r.Ports), PortsMax)
	}
	if err := r.validateCIDRs(); err != nil {
		return fmt.Errorf(".cidrs: %w", err)
	}
	protocols, err := r.protocols()
	if err != nil {
		return fmt.Errorf(".protocol: %w", err)
	}
	if len(r.Ports) > 0 && (len(protocols) != 1 || !slices.Contains(withPorts(), protocols[0])) {
		return errors.New(`.ports: only with the protocol "tcp", "udp" or "sctp"`)
	}
	return nil
}

func (r *Rule) validateCIDRs() error {
	for i, p := range r.CIDRs {
		switch {
		case !p.IsValid():
			return errors.New("an empty one")
		case p.Addr().Is4In6():
			return fmt.Errorf("%s is an IPv4 address in IPv6's form", p)
		case p != p.Masked():
			return fmt.Errorf("%s has host bits: want %s", p, p.Masked())
		case slices.Contains(r.CIDRs[:i], p):
			return fmt.Errorf("%s twice", p)
		}
	}
	return nil
}

// Numbers of protocols (IANA, Protocol Numbers).
const (
	icmp   = 1
	tcp    = 6
	udp    = 17
	icmpv6 = 58
	sctp   = 132
)

func withPorts() []uint8 { return []uint8{tcp, udp, sctp} }

// protocols are the numbers of those that the rule is for; none for all.
func (r *Rule) protocols() ([]uint8, error) {
	named := map[string][]uint8{"": nil, "tcp": {tcp}, "udp": {udp}, "sctp": {sctp}, "icmp": {icmp, icmpv6}}
	if numbers, known := named[r.Protocol]; known {
		return numbers, nil
	}
	number, err := strconv.ParseUint(r.Protocol, 10, 8)
	if err != nil {
		return nil, fmt.Errorf(`%q is none of "tcp", "udp", "sctp", "icmp" and no number up to 255`, r.Protocol)
	}
	return []uint8{uint8(number)}, nil
}

// validateTogether is about what no rule has by itself.
func validateTogether(rules []Rule) error {
	for _, d := range []Direction{Ingress, Egress} {
		if n := len(Of(rules, d)); n > RulesMax {
			return fmt.Errorf("rules: %d of %s, want %d at most", n, d, RulesMax)
		}
		if n := Compile(rules, d).entries(); n > EntriesMax {
			return fmt.Errorf("rules: the ports of %s take %d entries, want %d at most; "+
				"a range takes fewer when it begins and ends at multiples of a power of two, as 8192-16383", d, n, EntriesMax)
		}
	}
	seen := map[string]int{}
	for i, r := range rules {
		if before, twice := seen[r.Name]; twice && r.Name != "" {
			return fmt.Errorf("rules[%d].name: %q is that of rules[%d]", i, r.Name, before)
		}
		seen[r.Name] = i
	}
	return nil
}

// Of are the numbers of those rules that are of a direction, in their order.
func Of(rules []Rule, d Direction) []int {
	var of []int
	for i, r := range rules {
		if r.Direction == "" || r.Direction == d {
			of = append(of, i)
		}
	}
	return of
}

// Label is the name of the i-th rule in metrics.
func Label(rules []Rule, i int) string {
	if rules[i].Name != "" {
		return rules[i].Name
	}
	return strconv.Itoa(i)
}

// List is a list of rules that is parsed and validated as it is read from JSON.
type List []Rule

// UnmarshalJSON implements json.Unmarshaler, as Parse does it.
func (l *List) UnmarshalJSON(data []byte) error {
	rules, err := Parse(data)
	*l = rules
	return err
}
