// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"

	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weir-cni/weir/netns"
)

// The values of Config.IPMasqBackend. The reference plugin takes iptables where
// the node has it and nothing is said; here nothing means nftables, which needs no
// binary.
const (
	// BackendNFTables speaks to nf_tables over netlink.
	BackendNFTables = "nftables"
	// BackendIPTables executes iptables and ip6tables of the PATH.
	BackendIPTables = "iptables"
)

// masquerade is a way to have packets masqueraded. Each owner's rules are apart
// from all others'.
type masquerade interface {
	// validate says why it would not work, touching nothing.
	validate() error
	// set makes the owner's rules those for the sources, whatever they were: packets
	// of each to other than its own subnet and multicast are masqueraded.
	set(id Owner, sources []netip.Prefix) error
	// clear removes the owner's rules; none is no error.
	clear(id Owner) error
	// missing lists the sources that nobody's rules are for.
	missing(sources []netip.Prefix) ([]netip.Prefix, error)
}

func (c *Config) masquerade(host *netns.Namespace) masquerade {
	if c.IPMasqBackend == BackendIPTables {
		return &ipTables{host: host}
	}
	return &nfTables{host: host}
}

// sourcesOf lists the pod's addresses with their subnets.
func sourcesOf(result *current.Result) ([]netip.Prefix, error) {
	sources := make([]netip.Prefix, len(result.IPs))
	for i, ip := range result.IPs {
		prefix, err := prefixOf(ip.Address)
		if err != nil {
			return nil, fmt.Errorf("address %s: %w", &ip.Address, err)
		}
		sources[i] = prefix
	}
	return sources, nil
}

// multicastOf is what pods send to each other, never elsewhere.
func multicastOf(source netip.Prefix) netip.Prefix {
	if source.Addr().Is4() {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4)
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8)
}

// digest is 20 characters that no other owner has.
func (o Owner) digest() string {
	hash := sha256.New()
	for _, part := range []string{o.Network, o.ContainerID, o.Interface} {
		// With its length before it, no part runs into the next.
		hash.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		hash.Write([]byte(part))
	}
	return hex.EncodeToString(hash.Sum(nil)[:10])
}

// comment tells whose rules an administrator sees, in at most limit bytes of
// printable ASCII without quotes.
func (o Owner) comment(limit int) string {
	text := fmt.Appendf(nil, "weir: network %s, interface %s, container %s", o.Network, o.Interface, o.ContainerID)
	for i, b := range text {
		if b < ' ' || b > '~' || b == '"' || b == '\\' || b == '\'' {
			text[i] = '_'
		}
	}
	return string(text[:min(len(text), limit)])
}
