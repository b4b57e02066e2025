// SPDX-License-Identifier: Apache-2.0

package segment

import (
	"net"
	"net/netip"
)

// Member is what an attachment is known by.
type Member struct {
	MAC       net.HardwareAddr
	Addresses []netip.Addr
}

// Key is one thing that a member is known by: a MAC, or an address where Address is valid.
type Key struct {
	MAC     [6]byte
	Address netip.Addr
}

// Table is the restricted members of a segment, by everything that they are known by.
type Table map[Key]Isolation

// Add puts a member into the table. What two members that may not talk to each other are
// both known by, an address that was given on for instance, is taken for that of an
// isolated one.
func (t Table) Add(place Place, m Member) {
	if !place.Isolation.Restricted() {
		return
	}
	if !place.SharedMAC && len(m.MAC) == len(Key{}.MAC) {
		t.add(Key{MAC: [6]byte(m.MAC)}, place.Isolation)
		t.add(Key{Address: linkLocal(m.MAC)}, place.Isolation)
	}
	for _, address := range m.Addresses {
		t.add(Key{Address: address.Unmap().WithZone("")}, place.Isolation)
	}
}

func (t Table) add(key Key, isolation Isolation) { t[key] = t.With(key, isolation) }

// With is what a key stands for when one more member is known by it.
func (t Table) With(key Key, isolation Isolation) Isolation {
	if known, there := t[key]; there && known != isolation {
		return Of(Isolated)
	}
	return isolation
}

// Diff is what has to be put into a table, and what has to be taken out of it, so that it
// is as another.
func (t Table) Diff(want Table) (put Table, gone []Key) {
	put = Table{}
	for key, isolation := range want {
		if known, there := t[key]; !there || known != isolation {
			put[key] = isolation
		}
	}
	for key := range t {
		if _, there := want[key]; !there {
			gone = append(gone, key)
		}
	}
	return put, gone
}

// linkLocal is the IPv6 link-local address that a kernel makes from a MAC (RFC 4291,
// appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}
