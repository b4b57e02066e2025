// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
)

// question is which packet a guard is asked about: as it was typed, and as check has read it.
type question struct {
	direction            string
	from, to             string
	fromMAC, toMAC       string
	tcp, udp, sourcePort uint16
	icmp, arp            bool

	asked packet // whose direction, addresses and MACs may be missing
}

// defaultSourcePort is one that a kernel chooses by itself (RFC 6335, 6).
const defaultSourcePort = 50000

func (q *question) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&q.direction, "direction", "", "the pod's: egress is what it sends, ingress what it receives")
	flags.StringVar(&q.from, "from", "", "the packet's source; the pod's own where it is left out")
	flags.StringVar(&q.to, "to", "", "the packet's destination; the pod's own where it is left out")
	flags.StringVar(&q.fromMAC, "from-mac", "", "the source MAC; the attachment's, or that of the host where it is known")
	flags.StringVar(&q.toMAC, "to-mac", "", "the destination MAC; likewise")
	flags.Uint16Var(&q.tcp, overTCP, 0, "TCP to this port")
	flags.Uint16Var(&q.udp, overUDP, 0, "UDP to this port")
	flags.BoolVar(&q.icmp, overICMP, false, "an echo request")
	flags.BoolVar(&q.arp, overARP, false, "an ARP request; of IPv6 a neighbour solicitation")
	flags.Uint16Var(&q.sourcePort, "source-port", defaultSourcePort, "the source port")
	directions := []string{bpf.Egress.String(), bpf.Ingress.String()}
	_ = cmd.RegisterFlagCompletionFunc("direction", cobra.FixedCompletions(directions, cobra.ShellCompDirectiveNoFileComp))
}

// check reads what was typed.
func (q *question) check() error {
	q.asked = packet{sourcePort: q.sourcePort, port: max(q.tcp, q.udp)}
	if err := errors.Join(q.checkProtocol(), q.checkAddresses(), q.checkMACs()); err != nil {
		return usageError{err}
	}
	return nil
}

func (q *question) checkProtocol() error {
	var named []string
	for protocol, is := range map[string]bool{overTCP: q.tcp > 0, overUDP: q.udp > 0, overICMP: q.icmp, overARP: q.arp} {
		if is {
			named = append(named, protocol)
		}
	}
	if len(named) != 1 {
		return errors.New("want one of --tcp PORT, --udp PORT, --icmp and --arp")
	}
	q.asked.protocol = named[0]
	return nil
}

func (q *question) checkAddresses() error {
	if q.direction != "" && q.direction != bpf.Egress.String() && q.direction != bpf.Ingress.String() {
		return fmt.Errorf("--direction %q: want egress or ingress", q.direction)
	}
	if q.from == "" && q.to == "" {
		return errors.New("want --from ADDR, --to ADDR or both")
	}
	for flag, into := range map[string]*netip.Addr{"from": &q.asked.from, "to": &q.asked.to} {
		text := map[string]string{"from": q.from, "to": q.to}[flag]
		if text == "" {
			continue
		}
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" {
			return fmt.Errorf("--%s %q: want an IPv4 or IPv6 address", flag, text)
		}
		*into = address.Unmap()
	}
	if q.from != "" && q.to != "" && q.asked.from.Is4() != q.asked.to.Is4() {
		return fmt.Errorf("--from %s and --to %s are of two families", q.from, q.to)
	}
	return nil
}

func (q *question) checkMACs() error {
	for flag, into := range map[string]*net.HardwareAddr{"from-mac": &q.asked.fromMAC, "to-mac": &q.asked.toMAC} {
		text := map[string]string{"from-mac": q.fromMAC, "to-mac": q.toMAC}[flag]
		if text == "" {
			continue
		}
		mac, err := net.ParseMAC(text)
		if err != nil || len(mac) != len(broadcastMAC()) {
			return fmt.Errorf("--%s %q: want a MAC", flag, text)
		}
		*into = mac
	}
	return nil
}

// about is the packet that an attachment is asked about. What was not said is its own; the
// other's MAC is that of an attachment that has the address or, where none has, made up.
func (q *question) about(a *api.AttachmentStatus, known []api.AttachmentStatus) (p *packet, guessed bool, err error) {
	asked := q.asked
	p = &asked
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		return nil, false, fmt.Errorf("%s: its MAC: %w", a.ID, err)
	}
	if p.direction, err = q.directionFor(a); err != nil {
		return nil, false, err
	}
	own, other := &p.from, &p.to
	ownMAC, otherMAC := &p.fromMAC, &p.toMAC
	if p.direction == bpf.Ingress {
		own, other, ownMAC, otherMAC = other, own, otherMAC, ownMAC
	}
	if !other.IsValid() {
		return nil, false, usageError{fmt.Errorf("--direction %s wants the other's address too", p.direction)}
	}
	if !own.IsValid() {
		if *own, err = ownAddress(a, *other, mac); err != nil {
			return nil, false, err
		}
	}
	if p.toMAC == nil {
		p.toMAC = groupOf(p)
	}
	if *ownMAC == nil {
		*ownMAC = mac
	}
	if *otherMAC == nil {
		*otherMAC = macOf(known, a, *other)
	}
	if *otherMAC == nil {
		*otherMAC, guessed = strangersMAC(), true
	}
	return p, guessed, nil
}

// groupOf is the MAC of the group that a packet goes to; nil for one that goes to a host.
func groupOf(p *packet) net.HardwareAddr {
	switch {
	case p.protocol != overARP:
		return groupMAC(p.to)
	case p.to.Is4():
		return broadcastMAC()
	default:
		return groupMAC(solicitedNode(p.to))
	}
}

// directionFor is that of the packet as an attachment sees it.
func (q *question) directionFor(a *api.AttachmentStatus) (bpf.Direction, error) {
	sent, received := hasAddress(a, q.asked.from), hasAddress(a, q.asked.to)
	switch {
	case q.direction == bpf.Egress.String(), q.direction == "" && q.from == "", q.direction == "" && sent && !received:
		return bpf.Egress, nil
	case q.direction == bpf.Ingress.String(), q.direction == "" && q.to == "", q.direction == "" && received && !sent:
		return bpf.Ingress, nil
	default:
		return 0, usageError{fmt.Errorf("neither %s nor %s tells whether %s sends or receives it: say --direction egress or ingress",
			q.from, q.to, a.Interface)}
	}
}

func hasAddress(a *api.AttachmentStatus, address netip.Addr) bool {
	return slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return p.Addr() == address })
}

// ownAddress is that from which the pod talks to another.
func ownAddress(a *api.AttachmentStatus, other netip.Addr, mac net.HardwareAddr) (netip.Addr, error) {
	if other.Is6() && (other.IsLinkLocalUnicast() || other.IsLinkLocalMulticast()) {
		return loader.LinkLocal(mac), nil
	}
	for _, p := range a.Addresses {
		if p.Addr().Is4() == other.Is4() {
			return p.Addr(), nil
		}
	}
	family := map[bool]string{true: "IPv4", false: "IPv6"}[other.Is4()]
	return netip.Addr{}, usageError{fmt.Errorf("%s has no %s address that is known: give both --from and --to",
		a.ID, family)}
}

// macOf is that of the attachment on the same LAN that has an address; nil where none has.
func macOf(known []api.AttachmentStatus, beside *api.AttachmentStatus, address netip.Addr) net.HardwareAddr {
	for i := range known {
		k := &known[i]
		isNear := k.Network == beside.Network || k.Master != "" && k.Master == beside.Master
		if !isNear || !hasAddress(k, address) {
			continue
		}
		if mac, err := net.ParseMAC(k.MAC); err == nil {
			return mac
		}
	}
	return nil
}

// strangersMAC is that of a host of which nothing is known: a local one, of no vendor.
func strangersMAC() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 1} }
