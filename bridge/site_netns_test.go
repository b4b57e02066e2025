// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bridge_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bridge"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// site is a node whose eth1 is on a wire with an outside host.
type site struct {
	outside, node *lan.Host
	host          *netns.Namespace
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{outside: lan.NewHost(t), node: lan.NewHost(t)}
	lan.Join(t, s.outside, "eth0", s.node, "eth1")
	s.outside.Address("eth0", "203.0.113.1/24", "2001:db8:ff::1/64")
	s.node.Address("eth1", "203.0.113.2/24", "2001:db8:ff::2/64")
	s.host = open(t, s.node)
	return s
}

func open(t *testing.T, h *lan.Host) *netns.Namespace {
	t.Helper()
	n, err := netns.Open(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func parse(t *testing.T, config string) *bridge.Config {
	t.Helper()
	c, err := bridge.Parse([]byte(config), "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pod is a pod with an interface net1 on a bridge.
type pod struct {
	*lan.Host
	ns     *netns.Namespace
	config *bridge.Config
	id     bridge.Owner
	result *current.Result
}

func newPod(t *testing.T, c *bridge.Config, name string) *pod {
	t.Helper()
	p := &pod{Host: lan.NewHost(t), config: c, id: bridge.Owner{Network: "net", ContainerID: name, Interface: "net1"}}
	p.ns = open(t, p.Host)
	return p
}

// port is the name of the host's end.
func (p *pod) port() string { return p.result.Interfaces[1].Name }

// add does what an ADD does.
func (p *pod) add(t *testing.T, host *netns.Namespace, addresses ...string) error {
	t.Helper()
	if err := p.config.Validate(host, p.ns); err != nil {
		return err
	}
	made, err := p.config.Create(host, p.ns, "net1")
	if err != nil {
		return err
	}
	p.result = &current.Result{Interfaces: made}
	for _, a := range addresses {
		p.result.IPs = append(p.result.IPs, &current.IPConfig{Address: *network(t, a)})
	}
	steps := []func() error{
		func() error { return p.config.Complete(p.result) },
		func() error { return p.config.ConfigureHost(host, p.id, p.port(), p.result) },
	}
	if !p.config.DisableContainerInterface {
		steps = append(steps,
			func() error { return netif.Configure(p.ns, "net1", p.result) },
			func() error { return netif.Check(p.ns, "net1", p.result) },
		)
	}
	for _, do := range append(steps,
		func() error { return p.config.Settle(host, p.port()) },
		func() error { return p.check(host) },
	) {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

func (p *pod) check(host *netns.Namespace) error {
	return p.config.Check(host, p.ns, "net1", p.result)
}

func (p *pod) delete(host *netns.Namespace) error {
	return p.config.Delete(host, p.ns, p.id, "net1", p.result)
}

// attach makes a pod with the configured net1, which has the addresses.
func (s *site) attach(t *testing.T, name, config string, addresses ...string) *pod {
	t.Helper()
	if len(addresses) > 0 {
		config = strings.Replace(config, "{", `{"ipam":{"type":"test"},`, 1)
		config = strings.Replace(config, ",}", "}", 1)
	}
	p := newPod(t, parse(t, config), name)
	if err := p.add(t, s.host, addresses...); err != nil {
		t.Fatal(err)
	}
	return p
}

// reaches expects an answer, and is patient with a port that has just come up.
func reaches(t *testing.T, from *lan.Host, address string) {
	t.Helper()
	for range 4 {
		if from.Ping(t.Context(), address, 1) == 1 {
			return
		}
	}
	t.Errorf("%s did not answer", address)
}

// none expects that nothing answers within a second.
func none(t *testing.T, from *lan.Host, address string) {
	t.Helper()
	from.Do(func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "9"), 1e9)
		if err == nil {
			_ = conn.Close()
		}
		// A host that is reached refuses.
		if err == nil || errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s answered", address)
		}
		return nil
	})
}

func list[T any](t *testing.T, dump func() ([]T, error)) []T {
	t.Helper()
	items, err := netns.Dump(dump)
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// state is everything of the host's that an attempt could leave behind, without
// what the kernel adds some time after an interface has come up.
func (s *site) state(t *testing.T) []string {
	t.Helper()
	h := s.host.Netlink()
	var lines []string
	for _, l := range list(t, h.LinkList) {
		a := l.Attrs()
		lines = append(lines, fmt.Sprintf("link %d %s %s mtu %d master %d promisc %d %s", a.Index, a.Name, l.Type(), a.MTU, a.MasterIndex, a.Promisc, a.Flags&net.FlagUp))
	}
	for _, a := range list(t, func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) }) {
		if !a.IP.IsLinkLocalUnicast() {
			lines = append(lines, fmt.Sprintf("address %d %s", a.LinkIndex, a.IPNet))
		}
	}
	for _, r := range list(t, func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_ALL) }) {
		if r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast() {
			lines = append(lines, fmt.Sprintf("route %d %s", r.LinkIndex, r.Dst))
		}
	}
	lines = append(lines, s.rules(t)...)
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		lines = append(lines, key+" "+s.sysctl(t, key))
	}
	slices.Sort(lines)
	return lines
}

func (s *site) sysctl(t *testing.T, key string) string { return sysctlOf(t, s.node, key) }

func sysctlOf(t *testing.T, h *lan.Host, key string) (value string) {
	t.Helper()
	h.Do(func() error {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net", key))
		value = strings.TrimSpace(string(text))
		return err
	})
	return value
}

// nft runs fn with a socket in the host's namespace.
func (s *site) nft(t *testing.T, fn func(*nftables.Conn) error) {
	t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(s.host.Fd()))
	if err == nil {
		err = fn(conn)
	}
	if err != nil {
		t.Fatalf("nftables: %v", err)
	}
}

// rules lists the sources that the host masquerades, a line for each rule.
func (s *site) rules(t *testing.T) (lines []string) {
	t.Helper()
	s.nft(t, func(conn *nftables.Conn) error {
		chains, err := conn.ListChains()
		if err != nil {
			return err
		}
		for _, chain := range chains {
			rules, err := conn.GetRules(chain.Table, chain)
			if err != nil {
				return err
			}
			for _, r := range rules {
				source, ok := r.Exprs[3].(*expr.Cmp)
				if !ok {
					return fmt.Errorf("unexpected %T", r.Exprs[3])
				}
				lines = append(lines, fmt.Sprintf("masquerade %s", net.IP(source.Data)))
			}
		}
		return nil
	})
	slices.Sort(lines)
	return lines
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// flags reads those of a port.
func (s *site) flags(t *testing.T, name string) netlink.Protinfo {
	t.Helper()
	return list(t, func() ([]netlink.Protinfo, error) {
		flags, err := s.host.Netlink().LinkGetProtinfo(s.node.Link(name))
		return []netlink.Protinfo{flags}, err
	})[0]
}
