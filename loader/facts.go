// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"

	"github.com/weir-cni/weir/bpf"
)

// ErrTooManyAddresses is the error of an attachment with more source prefixes
// of one family than the programs hold.
var ErrTooManyAddresses = errors.New("too many source addresses")

// factsOf lays addresses out as the programs read them.
func factsOf(a Addresses) (*bpf.Facts, error) {
	if len(a.MAC) != len(bpf.Facts{}.Mac) {
		return nil, fmt.Errorf("hardware address %q: not an Ethernet address", a.MAC)
	}
	facts := &bpf.Facts{Mac: [6]uint8(a.MAC)}
	for _, p := range a.Prefixes {
		add := addPrefix6
		if p.Addr().Unmap().Is4() {
			add = addPrefix4
		}
		if err := add(facts, p); err != nil {
			return nil, err
		}
	}
	return facts, nil
}

func addPrefix4(facts *bpf.Facts, p netip.Prefix) error {
	n := facts.Prefixes4Len
	if int(n) == bpf.PrefixesMax {
		return fmt.Errorf("%w: more than %d IPv4 prefixes", ErrTooManyAddresses, bpf.PrefixesMax)
	}
	address := p.Masked().Addr().Unmap().As4()
	facts.Prefixes4[n].Address = binary.NativeEndian.Uint32(address[:])
	facts.Prefixes4[n].Mask = binary.NativeEndian.Uint32(net.CIDRMask(p.Bits(), 32))
	facts.Prefixes4Len++
	return nil
}

func addPrefix6(facts *bpf.Facts, p netip.Prefix) error {
	n := facts.Prefixes6Len
	if int(n) == bpf.PrefixesMax {
		return fmt.Errorf("%w: more than %d IPv6 prefixes", ErrTooManyAddresses, bpf.PrefixesMax)
	}
	address := p.Masked().Addr().As16()
	mask := net.CIDRMask(p.Bits(), 128)
	for half := range 2 {
		facts.Prefixes6[n].Address.Half[half] = binary.NativeEndian.Uint64(address[half*8:])
		facts.Prefixes6[n].Mask.Half[half] = binary.NativeEndian.Uint64(mask[half*8:])
	}
	facts.Prefixes6Len++
	return nil
}

// withLinkLocals adds the link-local addresses that are among the facts.
func withLinkLocals(prefixes []netip.Prefix, facts *bpf.Facts) []netip.Prefix {
	for _, addr := range linkLocalsOf(facts) {
		if p := netip.PrefixFrom(addr, addr.BitLen()); !slices.Contains(prefixes, p) {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

// LinkLocals are the link-local addresses that the attachment may send from.
func (g *Guard) LinkLocals() ([]netip.Addr, error) {
	facts, err := g.factsNow()
	if err != nil {
		return nil, err
	}
	return linkLocalsOf(facts), nil
}

// factsNow are the facts that are in force.
func (g *Guard) factsNow() (*bpf.Facts, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var control bpf.Control
	if err := g.control.Lookup(uint32(0), &control); err != nil {
		return nil, fmt.Errorf("reading the control in %s: %w", g.dir, err)
	}
	facts := &bpf.Facts{}
	if err := g.facts.Lookup(control.Slot, facts); err != nil {
		return nil, fmt.Errorf("reading the facts in %s: %w", g.dir, err)
	}
	return facts, nil
}

// linkLocalsOf are the whole link-local addresses among the facts.
func linkLocalsOf(facts *bpf.Facts) []netip.Addr {
	return slices.DeleteFunc(addressesOf(facts), func(a netip.Addr) bool { return a.Is4() || !a.IsLinkLocalUnicast() })
}

// addressesOf are the whole addresses among the facts.
func addressesOf(facts *bpf.Facts) []netip.Addr {
	var all []netip.Addr
	for _, p := range facts.Prefixes4[:facts.Prefixes4Len] {
		if p.Mask == math.MaxUint32 {
			var address [4]byte
			binary.NativeEndian.PutUint32(address[:], p.Address)
			all = append(all, netip.AddrFrom4(address))
		}
	}
	for _, p := range facts.Prefixes6[:facts.Prefixes6Len] {
		if p.Mask.Half != [2]uint64{math.MaxUint64, math.MaxUint64} {
			continue
		}
		var address [16]byte
		for half, value := range p.Address.Half {
			binary.NativeEndian.PutUint64(address[half*8:], value)
		}
		all = append(all, netip.AddrFrom16(address))
	}
	return all
}

// LinkLocal is the IPv6 link-local address that a kernel makes from a MAC
// (RFC 4291, appendix A).
func LinkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}
