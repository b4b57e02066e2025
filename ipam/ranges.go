// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
)

// ownRange is the field of the range whose keys are in the ipam section itself.
const ownRange = "ipam"

// rangeConfig is one range of host-local. RangeStart and RangeEnd belong to it.
type rangeConfig struct {
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Subnet     string `json:"subnet"`
	Gateway    string `json:"gateway"`
}

// rangeSet is a list of ranges of one family, out of which an attachment gets one address.
type rangeSet struct {
	field string
	spans []span
	// ranges is spans in the form that the allocator wants.
	ranges allocator.RangeSet
	// requested is the address that the attachment must get, or nil.
	requested *requested
}

// requested is an address that was asked for; text is where.
type requested struct {
	text

	addr netip.Addr
}

// span is one range. first and last belong to it.
type span struct {
	field       string
	first, last netip.Addr
	gateway     netip.Addr
	bits        int
}

// rangeSets returns the sets in the reference plugin's order, because their indices are part of the
// names of its files: runtimeConfig.ipRanges, then the range in ipam itself, then ipam.ranges.
func rangeSets(n *network[hostLocalConfig]) ([]rangeSet, error) {
	configs := fieldSets("runtimeConfig.ipRanges", n.RuntimeConfig.IPRanges)
	if own := n.IPAM.own(); own.Subnet != "" {
		configs = append(configs, fieldSet{ownRange, []rangeConfig{own}})
	}
	configs = append(configs, fieldSets("ipam.ranges", n.IPAM.Ranges)...)
	if len(configs) == 0 {
		return nil, &FieldError{Field: "ipam.ranges", Err: ErrMissing}
	}
	sets := make([]rangeSet, len(configs))
	for i, config := range configs {
		var err error
		if sets[i], err = config.parse(); err != nil {
			return nil, err
		}
	}
	return sets, checkOverlaps(sets)
}

// fieldSet is the configuration of a set and the field in which it was found.
type fieldSet struct {
	field  string
	ranges []rangeConfig
}

func fieldSets(field string, configs [][]rangeConfig) []fieldSet {
	sets := make([]fieldSet, len(configs))
	for i, ranges := range configs {
		sets[i] = fieldSet{fmt.Sprintf("%s[%d]", field, i), ranges}
	}
	return sets
}

func (f fieldSet) parse() (rangeSet, error) {
	set := rangeSet{field: f.field}
	if len(f.ranges) == 0 {
		return set, &FieldError{Field: f.field, Err: fmt.Errorf("%w: the set holds no range", ErrMissing)}
	}
	for i, config := range f.ranges {
		field := f.field
		if field != ownRange {
			field = fmt.Sprintf("%s[%d]", field, i)
		}
		r, bits, err := config.parse(field)
		if err != nil {
			return set, err
		}
		s := newSpan(field, bits, r)
		if i > 0 && s.first.Is4() != set.spans[0].first.Is4() {
			t := text{field + ".subnet", config.Subnet}
			return set, t.bad(fmt.Errorf("%w: the set begins with %s", ErrFamily, f.ranges[0].Subnet))
		}
		set.spans = append(set.spans, s)
		set.ranges = append(set.ranges, r)
	}
	return set, nil
}

// parse returns a range, in which the allocator has filled in what is left out, and the length of
// the prefix of its subnet.
func (c rangeConfig) parse(field string) (r allocator.Range, bits int, err error) {
	subnet, err := text{field + ".subnet", c.Subnet}.subnet()
	if err != nil {
		return r, 0, err
	}
	r.Subnet = types.IPNet(ipNet(subnet))
	if r.RangeStart, err = (text{field + ".rangeStart", c.RangeStart}).boundOf(subnet); err != nil {
		return r, 0, err
	}
	if r.RangeEnd, err = (text{field + ".rangeEnd", c.RangeEnd}).boundOf(subnet); err != nil {
		return r, 0, err
	}
	gateway, err := text{field + ".gateway", c.Gateway}.gatewayOf(subnet)
	if err != nil {
		return r, 0, err
	}
	r.Gateway = gateway.AsSlice()
	if err := complete(&r); err != nil {
		return r, 0, &FieldError{Field: field + ".rangeStart", Value: c.RangeStart, Err: err}
	}
	return r, subnet.Bits(), nil
}

// subnet parses a network that addresses can be allocated from.
func (t text) subnet() (netip.Prefix, error) {
	subnet, err := t.prefix()
	if err != nil {
		return netip.Prefix{}, err
	}
	// The allocator's arithmetic takes the deprecated IPv4-compatible addresses of RFC 4291,
	// section 2.5.5.1, for IPv4.
	compatible := netip.PrefixFrom(netip.IPv6Unspecified(), 96)
	switch addr := subnet.Addr(); {
	case subnet != subnet.Masked():
		err = fmt.Errorf("it has host bits, the network is %s", subnet.Masked())
	case subnet.Bits() > addr.BitLen()-2:
		err = errors.New("it is too small to allocate from")
	case addr.IsMulticast():
		err = errors.New("it is not a unicast network")
	case subnet.Overlaps(compatible):
		err = fmt.Errorf("it overlaps %s, which is IPv4-compatible", compatible)
	default:
		return subnet, nil
	}
	return netip.Prefix{}, t.bad(fmt.Errorf("%w: %w", ErrInvalid, err))
}

// boundOf parses an end of a range of a subnet. Nil leaves it to the allocator.
func (t text) boundOf(subnet netip.Prefix) (net.IP, error) {
	addr, err := t.optionalAddr()
	switch {
	case err != nil || !addr.IsValid():
		return nil, err
	case addr.Is4() != subnet.Addr().Is4():
		return nil, t.bad(fmt.Errorf("%w: the subnet is %s", ErrFamily, subnet))
	case !subnet.Contains(addr):
		return nil, t.bad(fmt.Errorf("%w: it is outside of the subnet %s", ErrInvalid, subnet))
	default:
		return addr.AsSlice(), nil
	}
}

// complete has the allocator fill in what is left out. It refuses an inverted range, in which the
// allocator would walk to the end of the address space and panic.
func complete(r *allocator.Range) error {
	bounded := r.RangeStart != nil && r.RangeEnd != nil
	if !bounded || bytes.Compare(r.RangeStart, r.RangeEnd) <= 0 {
		if err := r.Canonicalize(); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if bytes.Compare(r.RangeStart, r.RangeEnd) > 0 {
		return fmt.Errorf("%w: the range ends before it, at %s", ErrInvalid, r.RangeEnd)
	}
	return nil
}

func newSpan(field string, bits int, r allocator.Range) span {
	return span{
		field: field, bits: bits,
		first: toAddr(r.RangeStart), last: toAddr(r.RangeEnd), gateway: toAddr(r.Gateway),
	}
}

func (s span) contains(addr netip.Addr) bool {
	return addr.BitLen() == s.first.BitLen() && s.first.Compare(addr) <= 0 && addr.Compare(s.last) <= 0
}

// String returns the ends of the range.
func (s span) String() string { return s.first.String() + "-" + s.last.String() }

// find returns the range that an address is in, or nil.
func (s *rangeSet) find(addr netip.Addr) *span {
	for i := range s.spans {
		if s.spans[i].contains(addr) {
			return &s.spans[i]
		}
	}
	return nil
}

// checkOverlaps compares the ranges of all sets. Once they are sorted, the first overlap there is
// lies between neighbours.
func checkOverlaps(sets []rangeSet) error {
	var spans []span
	for _, set := range sets {
		spans = append(spans, set.spans...)
	}
	slices.SortStableFunc(spans, func(a, b span) int { return a.first.Compare(b.first) })
	for i := range len(spans) - 1 {
		if a, b := spans[i], spans[i+1]; a.contains(b.first) {
			return &FieldError{
				Field: b.field, Value: b.String(),
				Err: fmt.Errorf("%w %s, which is %s", ErrOverlap, a.field, a),
			}
		}
	}
	return nil
}

// request gives each requested address to the set that has it. A set has one address to give.
func request(sets []rangeSet, values []text) error {
	gateways := gatewaysOf(sets)
	for _, value := range values {
		addr, err := value.request()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(sets, func(s rangeSet) bool { return s.find(addr) != nil })
		switch {
		case i < 0:
			return value.bad(notInRange(sets, addr))
		case gateways[addr]:
			return value.bad(ErrGateway)
		case sets[i].requested == nil:
			sets[i].requested = &requested{value, addr}
		case sets[i].requested.addr != addr:
			return value.bad(fmt.Errorf("%w: %s gives one address, and %s wants it to be %s",
				ErrOutOfRange, sets[i].field, sets[i].requested.field, sets[i].requested.addr))
		}
	}
	return nil
}

// request parses a requested address. The length of a prefix may be there and says nothing: the
// range has its own.
func (t text) request() (netip.Addr, error) {
	host, err := t.hostPrefix()
	if errors.Is(err, ErrNoPrefix) {
		return t.addr()
	}
	return host.Addr(), err
}

func notInRange(sets []rangeSet, addr netip.Addr) error {
	sameFamily := func(s rangeSet) bool { return s.spans[0].first.Is4() == addr.Is4() }
	if !slices.ContainsFunc(sets, sameFamily) {
		return fmt.Errorf("%w: no range is of that family", ErrFamily)
	}
	return ErrOutOfRange
}

// gatewaysOf returns the gateways of all ranges: that of one may lie within another.
func gatewaysOf(sets []rangeSet) map[netip.Addr]bool {
	gateways := make(map[netip.Addr]bool)
	for _, set := range sets {
		for _, s := range set.spans {
			gateways[s.gateway] = true
		}
	}
	return gateways
}

// toAddr returns the zero Addr for what is not an address.
func toAddr(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
