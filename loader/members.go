// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/segment"
)

// ErrMembersFull is the error of a segment with more members than a table has room for.
var ErrMembersFull = fmt.Errorf("the segment has too many members: a table holds %d addresses and MACs", bpf.MembersMax)

// Members is the table of a segment's members, which the guards of its attachments share.
// It is not for use by several goroutines at the same time.
type Members struct {
	table *ebpf.Map
	have  segment.Table
}

// NewMembers makes an empty table.
func (l *Loader) NewMembers() (*Members, error) {
	table, err := ebpf.NewMap(l.spec.Maps[bpf.MembersMap].Copy())
	if err != nil {
		return nil, fmt.Errorf("making the table of a segment's members: %w", explain(err))
	}
	return &Members{table: table, have: segment.Table{}}, nil
}

// MembersOf is the table that a guard has; nil where it has none, or one of another layout.
func (l *Loader) MembersOf(g *Guard) (*Members, error) {
	if g.members == nil || l.spec.Maps[bpf.MembersMap].Compatible(g.members) != nil {
		return nil, nil
	}
	table, err := g.members.Clone()
	if err != nil {
		return nil, fmt.Errorf("opening the table of members in %s: %w", g.dir, err)
	}
	m := &Members{table: table}
	return m, m.read()
}

// read finds what an earlier agent has put into the table. Of a community the programs
// have a number alone: it is put anew.
func (m *Members) read() error {
	m.have = segment.Table{}
	var key bpf.MemberKey
	var value bpf.Member
	entries := m.table.Iterate()
	for entries.Next(&key, &value) {
		isolation := segment.Isolation{}
		if value.Role == bpf.RoleIsolated {
			isolation = segment.Of(segment.Isolated)
		}
		m.have[segmentKey(&key)] = isolation
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("reading a table of members: %w", err)
	}
	return nil
}

// IsOf tells that it is the table of a guard.
func (m *Members) IsOf(g *Guard) bool {
	if g.members == nil {
		return false
	}
	ours, err := m.table.Info()
	theirs, errTheirs := g.members.Info()
	if err != nil || errTheirs != nil {
		return false
	}
	a, _ := ours.ID()
	b, _ := theirs.ID()
	return a == b
}

func (m *Members) put(table segment.Table) error {
	for key, isolation := range table {
		if known, there := m.have[key]; there && known == isolation {
			continue
		}
		value := memberValue(isolation)
		if err := m.table.Put(memberKey(key), &value); errors.Is(err, unix.E2BIG) {
			return ErrMembersFull
		} else if err != nil {
			return fmt.Errorf("writing a member: %w", err)
		}
		m.have[key] = isolation
	}
	return nil
}

// Set makes the table what is given, entry by entry: one that stays is there all the time.
// When there is no room the error is ErrMembersFull, and as many are there as it holds.
func (m *Members) Set(want segment.Table) error {
	put, gone := m.have.Diff(want)
	for _, key := range gone {
		if err := m.table.Delete(memberKey(key)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("removing a member: %w", err)
		}
		delete(m.have, key)
	}
	return m.put(put)
}

// Add adds members to what the table has. The error is ErrMembersFull when there is no room.
func (m *Members) Add(table segment.Table) error {
	added := segment.Table{}
	for key, isolation := range table {
		added[key] = m.have.With(key, isolation)
	}
	return m.put(added)
}

// Len is how many entries the table has.
func (m *Members) Len() int { return len(m.have) }

// Close lets go of the table; the guards that share it keep it.
func (m *Members) Close() error { return m.table.Close() }

func memberKey(key segment.Key) *bpf.MemberKey {
	if key.Address.IsValid() {
		return &bpf.MemberKey{Kind: bpf.MemberAddress, Address: key.Address.As16()}
	}
	out := &bpf.MemberKey{Kind: bpf.MemberMAC}
	copy(out.Address[:], key.MAC[:])
	return out
}

func segmentKey(key *bpf.MemberKey) segment.Key {
	if key.Kind == bpf.MemberMAC {
		return segment.Key{MAC: [6]byte(key.Address[:6])}
	}
	return segment.Key{Address: netip.AddrFrom16(key.Address).Unmap()}
}

// roleOf is the role as programs know it.
func roleOf(i segment.Isolation) uint32 {
	switch i.Role() {
	case segment.Isolated:
		return bpf.RoleIsolated
	case segment.Community:
		return bpf.RoleCommunity
	default:
		return bpf.RoleNone
	}
}

func memberValue(i segment.Isolation) bpf.Member {
	return bpf.Member{Role: roleOf(i), Community: i.CommunityNumber()}
}

// withoutMembers makes of the table, in programs that never look at it, the least that a
// map can be.
func withoutMembers(spec *ebpf.MapSpec) {
	spec.Type, spec.KeySize, spec.MaxEntries = ebpf.Array, 4, 1
	spec.Flags = unix.BPF_F_RDONLY_PROG
	spec.Key, spec.Value = nil, nil
}
