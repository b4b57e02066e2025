// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/tests/lan"
)

// Addresses of the cluster. They are nobody else's: no namespace of a cluster has
// a way out.
const (
	controlAddress = "10.0.0.1"
	apiPort        = "6443"
	serviceRange   = "10.96.0.0/16"
	// serviceAddress is that of the service kubernetes: the first of the range.
	serviceAddress = "10.96.0.1"
	servicePort    = "443"

	// OutsideAddress and OutsideAddress6 are those of the outside host on the LAN of
	// eth1.
	OutsideAddress  = "192.168.122.1"
	OutsideAddress6 = "2001:db8:122::1"
	// SecondOutsideAddress and SecondOutsideAddress6 are the same for eth2.
	SecondOutsideAddress  = "192.168.123.1"
	SecondOutsideAddress6 = "2001:db8:123::1"
)

// network is the cables between the machines: one switch, on which each interface
// of a node has a bridge of the same name.
type network struct {
	tb                       testing.TB
	fabric, control, outside *lan.Host
}

func interfaces() []string { return []string{"eth0", "eth1", "eth2"} }

func newNetwork(tb testing.TB, nodes int) *network {
	tb.Helper()
	n := &network{tb: tb, fabric: lan.NewHost(tb), control: lan.NewHost(tb), outside: lan.NewHost(tb)}
	for _, name := range interfaces() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := n.fabric.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			tb.Fatalf("making a LAN: %v", err)
		}
		n.fabric.Up(name)
	}
	n.plug(n.control, "control", "eth0")
	n.control.Address("eth0", controlAddress+"/24")
	n.control.Address("lo", serviceAddress+"/32")
	for i := 1; i <= nodes; i++ {
		n.route(n.control, podSubnet(i), nodeAddress(i))
	}
	n.plug(n.outside, "outside", "eth1")
	n.outside.Address("eth1", OutsideAddress+"/24", OutsideAddress6+"/64")
	n.plug(n.outside, "outside", "eth2")
	n.outside.Address("eth2", SecondOutsideAddress+"/24", SecondOutsideAddress6+"/64")
	return n
}

// nodeAddress is that of eth0 of the node with this number, from 1.
func nodeAddress(number int) string { return fmt.Sprintf("10.0.0.%d", 10+number) }

// podSubnet is where the default network's addresses on a node are from.
func podSubnet(number int) string { return fmt.Sprintf("10.244.%d.0/24", number) }

// nodeMAC is that of a node's interface with this index.
func nodeMAC(number, index int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0, 0x5e, 0, byte(number), byte(index)}
}

// plug gives a machine an interface that is on the LAN of that name.
func (n *network) plug(machine *lan.Host, name, ifname string) {
	n.tb.Helper()
	port := name + "-" + ifname
	lan.Join(n.tb, machine, ifname, n.fabric, port)
	n.join(port, ifname)
}

// join puts a port on the LAN of that name.
func (n *network) join(port, ifname string) {
	n.tb.Helper()
	if err := n.fabric.Netlink().LinkSetMaster(n.fabric.Link(port), n.fabric.Link(ifname)); err != nil {
		n.tb.Fatalf("plugging %s in: %v", port, err)
	}
}

// newNode makes the network namespace of a node that boots for the given time.
func (n *network) newNode(number, of, boots int) *lan.Host {
	n.tb.Helper()
	host := lan.NewHost(n.tb)
	for i, ifname := range interfaces() {
		// The ports of an earlier boot go with its namespace, a little later.
		n.plug(host, fmt.Sprintf("node%d.%d", number, boots), ifname)
		if err := setMAC(host, ifname, nodeMAC(number, i)); err != nil {
			n.tb.Fatalf("setting the MAC address of %s: %v", ifname, err)
		}
	}
	host.Address("eth0", nodeAddress(number)+"/24")
	n.route(host, "0.0.0.0/0", controlAddress)
	for other := 1; other <= of; other++ {
		if other != number {
			n.route(host, podSubnet(other), nodeAddress(other))
		}
	}
	host.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
	return host
}

// vmPort is the tap device of a VM's interface; it is QEMU's, and goes with it.
func vmPort(number int, ifname string) string { return fmt.Sprintf("node%d-%s", number, ifname) }

func (n *network) plugVM(number int) {
	n.tb.Helper()
	for _, ifname := range interfaces() {
		n.join(vmPort(number, ifname), ifname)
		n.fabric.Up(vmPort(number, ifname))
	}
}

// vmScript has a VM set its interfaces up.
func (n *network) vmScript(number int) string {
	script := "ip address add " + nodeAddress(number) + "/24 dev eth0\n"
	for _, ifname := range interfaces() {
		script += "ip link set " + ifname + " up\n"
	}
	return script + "ip route add default via " + controlAddress + "\necho 1 >/proc/sys/net/ipv4/ip_forward\n"
}

// setMAC has the link-local address follow.
func setMAC(host *lan.Host, ifname string, mac net.HardwareAddr) error {
	link := host.Link(ifname)
	return errors.Join(
		host.Netlink().LinkSetDown(link),
		host.Netlink().LinkSetHardwareAddr(link, mac),
		host.Netlink().LinkSetUp(link))
}

func (n *network) route(from *lan.Host, to, via string) {
	n.tb.Helper()
	_, dst, err := net.ParseCIDR(to)
	if err != nil {
		n.tb.Fatal(err)
	}
	if err := from.Netlink().RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}); err != nil {
		n.tb.Fatalf("adding the route to %s by %s: %v", to, via, err)
	}
}
