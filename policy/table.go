// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
)

// Bitmap is a set of rules of one direction: the n-th bit is the n-th of them.
type Bitmap uint64

// Table is the rules of one direction as they are looked up: by the longest prefix of the
// peer and by that of the service. The lowest bit that both have is the rule that decides.
type Table struct {
	// Peers has no entry for an address that is of no rule. That of 0.0.0.0/0 or ::/0
	// has the rules for all addresses.
	Peers map[netip.Prefix]Bitmap
	// Services are of whole packets and first fragments, Later those of the fragments
	// behind, which have no ports.
	Services, Later map[Service]Bitmap
	// Denies are the rules that deny.
	Denies Bitmap
	// Rules is how many there are.
	Rules int
}

// Service is a prefix of protocol and port, 24 bits together.
type Service struct {
	Protocol uint8
	Port     uint16
	Bits     int
}

// Lengths of a Service: every protocol, one, one with a port.
const (
	protocolBits = 8
	portBits     = 16
)

// Compile makes the table of a direction out of rules as Parse has them.
func Compile(rules []Rule, d Direction) Table {
	t := Table{Peers: map[netip.Prefix]Bitmap{}, Services: map[Service]Bitmap{}, Later: map[Service]Bitmap{}}
	for _, i := range Of(rules, d) {
		t.add(&rules[i])
	}
	spread(t.Peers, comparePeers, func(outer, inner netip.Prefix) bool {
		return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
	})
	spread(t.Services, Service.compare, Service.contains)
	spread(t.Later, Service.compare, Service.contains)
	return t
}

// entries is how many the table has for protocols and ports.
func (t Table) entries() int { return len(t.Services) + len(t.Later) }

func (t *Table) add(r *Rule) {
	bit := Bitmap(1) << t.Rules
	t.Rules++
	if r.Action == Deny {
		t.Denies |= bit
	}
	for _, p := range peersOf(r) {
		t.Peers[p] |= bit
	}
	for _, s := range servicesOf(r) {
		t.Services[s] |= bit
	}
	for _, s := range laterOf(r) {
		t.Later[s] |= bit
	}
}

func peersOf(r *Rule) []netip.Prefix {
	if len(r.CIDRs) > 0 {
		return r.CIDRs
	}
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

func servicesOf(r *Rule) []Service {
	if len(r.Ports) == 0 {
		return withoutPorts(r)
	}
	var services []Service
	for _, s := range withoutPorts(r) {
		for _, ports := range r.Ports {
			services = append(services, prefixesOf(s.Protocol, ports)...)
		}
	}
	return services
}

// laterOf is what the rule says of fragments whose port nobody knows. They are nothing
// without the first, which is judged by its port: so they may go where any port may, and
// are denied only with every port.
func laterOf(r *Rule) []Service {
	if len(r.Ports) > 0 && r.Action == Deny {
		return nil
	}
	return withoutPorts(r)
}

func withoutPorts(r *Rule) []Service {
	protocols, _ := r.protocols() // as validated
	if protocols == nil {
		return []Service{{}}
	}
	var services []Service
	for _, p := range protocols {
		services = append(services, Service{Protocol: p, Bits: protocolBits})
	}
	return services
}

// prefixesOf are the fewest prefixes that have the ports of a range, and no others.
func prefixesOf(protocol uint8, ports Ports) []Service {
	var prefixes []Service
	for from, end := uint32(ports.First), uint32(ports.Last)+1; from < end; {
		free := min(bits.TrailingZeros32(from|1<<portBits), bits.Len32(end-from)-1)
		prefixes = append(prefixes, Service{Protocol: protocol, Port: uint16(from), Bits: protocolBits + portBits - free})
		from += 1 << free
	}
	return prefixes
}

// all are the bits of a Service.
func (s Service) all() uint32 { return uint32(s.Protocol)<<portBits | uint32(s.Port) }

func (s Service) contains(inner Service) bool {
	return s.Bits <= inner.Bits && (s.all()^inner.all())>>(protocolBits+portBits-s.Bits) == 0
}

// compare and comparePeers order prefixes so that each comes before those that it contains,
// and these before all others.
func (s Service) compare(other Service) int {
	return cmp.Or(cmp.Compare(s.all(), other.all()), cmp.Compare(s.Bits, other.Bits))
}

func comparePeers(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// spread gives each prefix the rules of all that contain it: only the longest is found.
func spread[P comparable](table map[P]Bitmap, compare func(a, b P) int, contains func(outer, inner P) bool) {
	var around []P // what contains the prefix at hand, the innermost last
	for _, p := range slices.SortedFunc(maps.Keys(table), compare) {
		for len(around) > 0 && !contains(around[len(around)-1], p) {
			around = around[:len(around)-1]
		}
		if len(around) > 0 {
			table[p] |= table[around[len(around)-1]]
		}
		around = append(around, p)
	}
}
