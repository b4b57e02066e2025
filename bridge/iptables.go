// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/weir-cni/weir/netns"
)

const (
	natTable    = "nat"
	postrouting = "POSTROUTING"
	// chainPrefix and an owner's digest make the 28 bytes that the name of a chain
	// may have (XT_EXTENSION_MAXNAMELEN).
	chainPrefix = "WEIR-"
	// commentMax is the limit of the comment match, its NUL included
	// (XT_MAX_COMMENT_LEN).
	commentMax = 256
	// lockSeconds bounds the wait for others who change the tables.
	lockSeconds = 10
)

// ipTables has a chain for each owner, in both families, and a jump to it for each
// source.
type ipTables struct{ host *netns.Namespace }

func (t *ipTables) validate() error {
	return t.do(iptables.ProtocolIPv4, func(*iptables.IPTables) error { return nil })
}

// do runs fn with the binary of a family; what it executes is in the host's
// namespace, as its thread is.
func (t *ipTables) do(protocol iptables.Protocol, fn func(*iptables.IPTables) error) error {
	return t.host.Do(func() error {
		tables, err := iptables.New(iptables.IPFamily(protocol), iptables.Timeout(lockSeconds))
		if err != nil {
			return fmt.Errorf("finding the binary on this node: %w", err)
		}
		return fn(tables)
	})
}

func (t *ipTables) set(id Owner, sources []netip.Prefix) error {
	if err := t.clear(id); err != nil {
		return err
	}
	for _, protocol := range []iptables.Protocol{iptables.ProtocolIPv4, iptables.ProtocolIPv6} {
		own := ofFamily(sources, protocol)
		if len(own) == 0 {
			continue
		}
		err := t.do(protocol, func(tables *iptables.IPTables) error { return add(tables, id, own) })
		if err != nil {
			return err
		}
	}
	return nil
}

func ofFamily(sources []netip.Prefix, protocol iptables.Protocol) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(sources), func(p netip.Prefix) bool {
		return p.Addr().Is4() != (protocol == iptables.ProtocolIPv4)
	})
}

// add completes the chain before anything leads to it. What stays within its
// own subnet leaves the chain before the rule that masquerades.
func add(tables *iptables.IPTables, id Owner, sources []netip.Prefix) error {
	chain := chainOf(id)
	if err := tables.NewChain(natTable, chain); err != nil {
		return err
	}
	rules := [][]string{{"!", "-d", multicastOf(sources[0]).String(), "-j", "MASQUERADE"}}
	for _, source := range sources {
		rules = slices.Insert(rules, 0, []string{"-s", source.Addr().String(), "-d", source.Masked().String(), "-j", "RETURN"})
	}
	for _, rule := range rules {
		if err := tables.Append(natTable, chain, rule...); err != nil {
			return err
		}
	}
	for _, source := range sources {
		if err := tables.Append(natTable, postrouting, jump(id, source.Addr().String())...); err != nil {
			return err
		}
	}
	return nil
}

func chainOf(id Owner) string { return chainPrefix + strings.ToUpper(id.digest()) }

func jump(id Owner, source string) []string {
	return []string{"-s", source, "-m", "comment", "--comment", id.comment(commentMax - 1), "-j", chainOf(id)}
}

func (t *ipTables) clear(id Owner) error {
	var errs []error
	for _, protocol := range []iptables.Protocol{iptables.ProtocolIPv4, iptables.ProtocolIPv6} {
		err := t.do(protocol, func(tables *iptables.IPTables) error { return remove(tables, id) })
		// Without ip6tables there never were rules for IPv6.
		if errors.Is(err, exec.ErrNotFound) && protocol == iptables.ProtocolIPv6 {
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// remove finds the jumps by the chain that they lead to.
func remove(tables *iptables.IPTables, id Owner) error {
	exists, err := tables.ChainExists(natTable, chainOf(id))
	if err != nil || !exists {
		return err
	}
	rules, err := tables.List(natTable, postrouting)
	if err != nil {
		return err
	}
	for _, rule := range rules {
		source, chain := jumpIn(rule)
		if chain != chainOf(id) {
			continue
		}
		if err := tables.DeleteIfExists(natTable, postrouting, jump(id, source)...); err != nil {
			return err
		}
	}
	err = tables.ClearAndDeleteChain(natTable, chainOf(id))
	var failed *iptables.Error
	if errors.As(err, &failed) && failed.IsNotExist() {
		return nil
	}
	return err
}

// jumpIn takes the source and the chain out of a rule as iptables lists it, such
// as `-A POSTROUTING -s 192.0.2.2/32 -m comment --comment "..." -j WEIR-...`.
func jumpIn(rule string) (source, chain string) {
	fields := strings.Fields(rule)
	if len(fields) < 6 || fields[2] != "-s" || fields[len(fields)-2] != "-j" {
		return "", ""
	}
	return fields[3], fields[len(fields)-1]
}

func (t *ipTables) missing(sources []netip.Prefix) ([]netip.Prefix, error) {
	var missing []netip.Prefix
	for _, protocol := range []iptables.Protocol{iptables.ProtocolIPv4, iptables.ProtocolIPv6} {
		own := ofFamily(sources, protocol)
		if len(own) == 0 {
			continue
		}
		err := t.do(protocol, func(tables *iptables.IPTables) error {
			rules, err := tables.List(natTable, postrouting)
			missing = append(missing, slices.DeleteFunc(own, func(p netip.Prefix) bool { return leadsAnywhere(rules, p) })...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// leadsAnywhere says whether one of the rules is a jump for the source to an
// owner's chain.
func leadsAnywhere(rules []string, source netip.Prefix) bool {
	want := netip.PrefixFrom(source.Addr(), source.Addr().BitLen()).String()
	return slices.ContainsFunc(rules, func(rule string) bool {
		from, chain := jumpIn(rule)
		return from == want && strings.HasPrefix(chain, chainPrefix)
	})
}
