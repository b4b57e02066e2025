// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/policy"
	"github.com/weir-cni/weir/segment"
	"github.com/weir-cni/weir/state"
)

// guarded is the guard of a delegate while its ADD goes on. The guard is nil
// where the record wants none, or where it could not be had and the network
// said bestEffort.
type guarded struct {
	guard *loader.Guard
	// join makes it known to the others of its segment by its MAC and addresses.
	join    func(mac net.HardwareAddr, sources []netip.Prefix) error
	mac     net.HardwareAddr
	sources []netip.Prefix // of the result
	further []netip.Prefix // that the network allows
}

// Place is where the guard of an attachment sits. The pod's namespace need not be
// given where that is on the node.
func Place(host, pod *netns.Namespace, a *attachment.Attachment) loader.Place {
	if a.HostInterface != "" {
		return loader.Place{Namespace: host, Interface: a.HostInterface, Index: a.Index, Opposite: true}
	}
	return loader.Place{Namespace: pod, Interface: a.Interface, Index: a.Index}
}

// reserve plans the attachment of every delegate that has none, but the default
// network's, and takes a directory for its pins.
func (p *Plugin) reserve(record *state.Record) error {
	for i := range record.Delegates {
		d := &record.Delegates[i]
		if d.Default || d.Attachment != nil {
			continue
		}
		id := attachment.ID{ContainerID: record.ContainerID, Interface: d.Interface}
		dir, err := loader.Reserve(p.BPFDir, id.PinName(), id.LongPinName())
		if err != nil {
			return fmt.Errorf("network %s (%s): %w", d.Network, d.Interface, err)
		}
		d.Attachment = &attachment.Attachment{
			ID:      id,
			Pod:     record.Pod,
			Network: d.Network,
			Netns:   record.Netns,
			PinDir:  filepath.Base(dir),
			Created: record.Created,
		}
	}
	return nil
}

// sending is what a pod may send.
type sending struct {
	// addressed is set where the network assigns addresses. Without IPAM it leaves
	// them to the pod: then only what binds a sender to its MAC is checked.
	addressed bool
	// tagged lets frames with VLAN tags pass, which the network's bridge sorts.
	tagged bool
}

// guardSpec is what is known of a guard before its interface is there: all but the
// addresses.
func (j *job) guardSpec(may sending) loader.Spec {
	checks := j.option.checks()
	if may.tagged {
		checks &^= bpf.CheckVLAN
	}
	if !may.addressed && len(j.option.Sources) == 0 {
		checks &^= bpf.CheckIPv4 | bpf.CheckIPv6
	}
	return loader.Spec{
		Dir:         filepath.Join(j.plugin.BPFDir, j.stored.Attachment.PinDir),
		Interface:   j.stored.Interface,
		Pod:         j.record.Pod.String(),
		Network:     j.stored.Network,
		ContainerID: j.record.ContainerID,
		PodUID:      j.record.Pod.UID,
		Checks:      checks,
		Ingress:     j.limits.ingress(),
		Egress:      j.limits.egress(),
		Storms:      j.option.StormLimit.storms(),
		Sources:     j.option.Sources,
		Place:       j.place(),
		GoesRound:   slices.Contains(j.option.Allow, qdiscBypass),
		Rules: loader.Rules{
			Ingress: policy.Compile(j.option.Rules, policy.Ingress),
			Egress:  policy.Compile(j.option.Rules, policy.Egress),
		},
	}
}

// attachGuard puts the programs on the interface, with no address of its own allowed yet.
func (j *job) attachGuard(pod *netns.Namespace, made *current.Interface, may sending) (*guarded, error) {
	if j.stored.Attachment == nil {
		return &guarded{}, nil
	}
	mac, err := ethernetAddress(made)
	if err != nil {
		return &guarded{}, j.withoutGuard(err)
	}
	spec := j.guardSpec(may)
	spec.MAC = mac
	place, err := Place(j.plugin.Host, pod, j.stored.Attachment).Lookup()
	if err != nil {
		return &guarded{}, err
	}
	guard, err := j.plugin.Guards.Attach(place, j.id(), spec)
	if err != nil {
		return &guarded{}, j.withoutGuard(err)
	}
	j.stored.Attachment.Index = place.Index
	if i := j.option.Isolation; i.Role() != segment.None {
		j.stored.Attachment.Isolation = i.String()
	}
	j.stored.Attachment.Rules = rulesOf(j.option.Rules)
	if err := j.join(mac, nil); err != nil {
		return &guarded{}, err
	}
	return &guarded{guard: guard, join: j.join, mac: mac, further: spec.Sources}, nil
}

// rulesOf names the rules in the order of their hits.
func rulesOf(rules policy.List) []attachment.Rule {
	var of []attachment.Rule
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		for _, i := range policy.Of(rules, d) {
			of = append(of, attachment.Rule{Direction: string(d), Rule: policy.Label(rules, i), Action: string(rules[i].Action)})
		}
	}
	return of
}

var errNotEthernet = errors.New("it is no Ethernet interface, and only those can be guarded; " +
	`a network that is to do without says "weir": {"enforcement": "bestEffort"}`)

func ethernetAddress(made *current.Interface) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(made.Mac)
	if err != nil || len(mac) != ethernetAddressLen {
		return nil, fmt.Errorf("%w: its hardware address is %q", errNotEthernet, made.Mac)
	}
	return mac, nil
}

// ethernetAddressLen is ETH_ALEN.
const ethernetAddressLen = 6

// withoutInterface leaves an attachment unguarded that is nothing to the kernel: a
// device that a program in the pod drives by itself.
func (j *job) withoutInterface() error {
	if j.stored.Attachment == nil {
		return nil
	}
	if err := j.needsGuard(); err != nil {
		return fmt.Errorf("%w: %s has no interface in the kernel", err, j.stored.Interface)
	}
	if j.stored.Auxiliary {
		return j.giveUpGuard() // it rather works on the interfaces of the others
	}
	j.plugin.Log.Warn("the attachment has no interface in the kernel, so it is neither guarded nor counted",
		"pod", j.record.Pod.String(), "network", j.stored.Network, "netif", j.stored.Interface)
	return j.giveUpGuard()
}

// withoutGuard decides what an attachment is worth without its programs.
func (j *job) withoutGuard(err error) error {
	if needs := j.needsGuard(); needs != nil {
		return fmt.Errorf("guarding %s: %w: %w", j.stored.Interface, needs, err)
	}
	if j.option.Enforcement == enforcementRequired {
		return fmt.Errorf("guarding %s: %w", j.stored.Interface, err)
	}
	j.plugin.Log.Warn("the attachment is not guarded", "pod", j.record.Pod.String(),
		"network", j.stored.Network, "netif", j.stored.Interface, "err", err)
	return j.giveUpGuard()
}

func (j *job) giveUpGuard() error {
	if err := j.removeGuard(); err != nil {
		return err
	}
	j.stored.Attachment.PinDir = ""
	return nil
}

// linkLocals are all link-local addresses of IPv6 (RFC 4291, 2.5.6).
var linkLocals = netip.MustParsePrefix("fe80::/10")

// allow lets the attachment send from the given sources, each a whole address.
// Until allowOwn it may use any link-local address: which one the kernel makes is
// known only when the interface is up, and where there is no duplicate address
// detection (ipvlan l3) the kernel sends from it at once.
func (g *guarded) allow(sources []netip.Prefix) error {
	if g.guard == nil {
		return nil
	}
	g.sources = sources
	if err := g.join(g.mac, sources); err != nil {
		return err
	}
	return g.set(linkLocals)
}

// settle allows what the last of a network's plugins has left: the addresses of
// its result and the MAC that the interface has by now. Of the link-local addresses
// it leaves that which the MAC makes, and those that the interface has: ipvlan's
// slaves share a MAC, and a node may want stable or random identifiers.
func (g *guarded) settle(pod *netns.Namespace, ifname string, result *current.Result) error {
	if g.guard == nil {
		return nil
	}
	link, err := pod.Netlink().LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("looking up %s: %w", ifname, err)
	}
	g.mac, g.sources = link.Attrs().HardwareAddr, sourcesOf(result)
	has, err := netif.Addresses(pod, ifname)
	if err != nil {
		return fmt.Errorf("reading the addresses of %s: %w", ifname, err)
	}
	made := loader.LinkLocal(g.mac)
	own := []netip.Prefix{netip.PrefixFrom(made, made.BitLen())}
	for _, p := range whole(has) {
		if p.Addr().IsLinkLocalUnicast() && !slices.Contains(own, p) && !slices.Contains(g.sources, p) {
			own = append(own, p)
		}
	}
	if err := g.join(g.mac, slices.Concat(g.sources, own[1:])); err != nil {
		return err
	}
	return g.set(own...)
}

func (g *guarded) set(linkLocal ...netip.Prefix) error {
	return g.guard.SetAddresses(loader.Addresses{MAC: g.mac, Prefixes: slices.Concat(g.sources, linkLocal, g.further)})
}

// sourcesOf is what a result allows as sources: its addresses, each by itself.
func sourcesOf(result *current.Result) []netip.Prefix {
	return whole(prefixesOf(result))
}

func whole(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		out[i] = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
	}
	return out
}

func prefixesOf(result *current.Result) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, ip := range result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			continue
		}
		ones, _ := ip.Address.Mask.Size()
		prefixes = append(prefixes, netip.PrefixFrom(addr.Unmap(), ones))
	}
	return prefixes
}

// guardMade guards the interface that other plugins made.
func (j *job) guardMade(pod *netns.Namespace, result *current.Result) error {
	if j.stored.Attachment == nil {
		return nil
	}
	link, err := pod.Netlink().LinkByName(j.stored.Interface)
	switch {
	case netif.IsNotFound(err):
		return j.withoutInterface()
	case err != nil:
		return fmt.Errorf("looking up %s, which the plugin made: %w", j.stored.Interface, err)
	}
	made := &current.Interface{Name: j.stored.Interface, Mac: link.Attrs().HardwareAddr.String()}
	guard, err := j.attachGuard(pod, made, sending{addressed: len(result.IPs) > 0})
	if err != nil {
		return err
	}
	return guard.settle(pod, j.stored.Interface, result)
}

func (j *job) checkGuard(pod *netns.Namespace) error {
	if a := j.stored.Attachment; a != nil && a.PinDir != "" {
		return j.plugin.Guards.Check(Place(j.plugin.Host, pod, a), a)
	}
	return nil
}

// removeGuard takes an attachment out of sight as well, which it is in without a guard.
func (j *job) removeGuard() error {
	if j.stored.Attachment == nil {
		return nil
	}
	return j.plugin.Guards.Remove(j.stored.Attachment)
}
