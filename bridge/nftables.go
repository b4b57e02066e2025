// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

const (
	// nfTable is the table, of family inet, that holds nothing but owners' chains.
	nfTable = "weir_masquerade"
	// nfPrefix begins the name of an owner's chain.
	nfPrefix = "owner_"
	// nfCommentMax is nft's limit for a comment, its NUL included.
	nfCommentMax = 128
)

// nfTables has one base chain for each owner, named after it. So an owner's
// rules come, are replaced and go by name, in one transaction each, without
// looking at those of others first, and the kernel holds at most 1,024 chains for
// one hook (MAX_HOOK_COUNT).
type nfTables struct{ host *netns.Namespace }

// do runs fn with a socket in the host's namespace.
func (n *nfTables) do(fn func(conn *nftables.Conn) error) error {
	return n.host.Do(func() error {
		conn, err := nftables.New(nftables.AsLasting())
		if err != nil {
			return err
		}
		return errors.Join(fn(conn), conn.CloseLasting())
	})
}

func (n *nfTables) table() *nftables.Table {
	return &nftables.Table{Name: nfTable, Family: nftables.TableFamilyINet}
}

func (n *nfTables) chain(id Owner) *nftables.Chain {
	return &nftables.Chain{
		Table:    n.table(),
		Name:     nfPrefix + id.digest(),
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	}
}

func (n *nfTables) validate() error {
	return n.do(func(conn *nftables.Conn) error {
		if _, err := conn.ListTablesOfFamily(nftables.TableFamilyINet); err != nil {
			return fmt.Errorf("the kernel has no nf_tables: %w", err)
		}
		return nil
	})
}

func (n *nfTables) set(id Owner, sources []netip.Prefix) error {
	return n.do(func(conn *nftables.Conn) error {
		table, chain := conn.AddTable(n.table()), conn.AddChain(n.chain(id))
		conn.FlushChain(chain)
		for _, source := range sources {
			conn.AddRule(&nftables.Rule{
				Table:    table,
				Chain:    chain,
				Exprs:    nfRule(source),
				UserData: userdata.AppendString(nil, userdata.TypeComment, id.comment(nfCommentMax-1)),
			})
		}
		return conn.Flush()
	})
}

func (n *nfTables) clear(id Owner) error {
	err := n.do(func(conn *nftables.Conn) error {
		// The chain's rules go with it.
		conn.DelChain(n.chain(id))
		return conn.Flush()
	})
	if errors.Is(err, unix.ENOENT) || isUnsupported(err) {
		return nil
	}
	return err
}

// isUnsupported says whether the kernel has no nf_tables, and so no rules.
func isUnsupported(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

func (n *nfTables) missing(sources []netip.Prefix) ([]netip.Prefix, error) {
	missing := slices.Clone(sources)
	err := n.do(func(conn *nftables.Conn) error {
		chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
		if err != nil {
			return fmt.Errorf("listing chains: %w", err)
		}
		for _, chain := range chains {
			if len(missing) == 0 || chain.Table.Name != nfTable || !strings.HasPrefix(chain.Name, nfPrefix) {
				continue
			}
			rules, err := conn.GetRules(n.table(), chain)
			if err != nil {
				return fmt.Errorf("listing the rules of %s: %w", chain.Name, err)
			}
			missing = slices.DeleteFunc(missing, func(source netip.Prefix) bool { return serves(rules, source) })
		}
		return nil
	})
	return missing, err
}

func serves(rules []*nftables.Rule, source netip.Prefix) bool {
	want := nfRule(source)
	return slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return reflect.DeepEqual(r.Exprs, want) })
}

// nfRule is, for IPv4:
//
//	ip saddr ADDRESS ip daddr != SUBNET ip daddr != 224.0.0.0/4 masquerade
func nfRule(source netip.Prefix) []expr.Any {
	// The offsets of the addresses in the header (RFC 791 3.1, RFC 8200 3).
	protocol, saddr, daddr := byte(unix.NFPROTO_IPV6), uint32(8), uint32(24)
	if source.Addr().Is4() {
		protocol, saddr, daddr = unix.NFPROTO_IPV4, 12, 16
	}
	size := uint32(source.Addr().BitLen() / 8)
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		load(saddr, size),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: source.Addr().AsSlice()},
	}
	for _, spared := range []netip.Prefix{source.Masked(), multicastOf(source)} {
		exprs = append(exprs,
			load(daddr, size),
			&expr.Bitwise{
				SourceRegister: 1,
				DestRegister:   1,
				Len:            size,
				Mask:           net.CIDRMask(spared.Bits(), spared.Addr().BitLen()),
				Xor:            make([]byte, size),
			},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: spared.Addr().AsSlice()},
		)
	}
	return append(exprs, &expr.Masq{})
}

func load(offset, size uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
}
