// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// A conformance case is made twice, on two machines that are alike: by the reference
// plugin, and by weir. Results, interfaces, addresses, routes, neighbours and
// settings are then the same, field by field, but for what docs/compatibility.md
// lists.
type conformance struct {
	name string
	// config is the plugin's; "LEASES" in it stands for a directory of the machine's.
	config object
	// runtime is runtimeConfig; args is CNI_ARGS.
	runtime object
	args    string
	// refused is set where both refuse, accepted where the reference alone does.
	refused, accepted bool
	// prepare makes a machine ready.
	prepare func(*Node)
	// differs is a pattern of what differs on purpose, in a line.
	differs string
}

// intended are patterns of what differs on purpose in every case of a type, as
// docs/compatibility.md has it.
var intended = map[string][]string{
	"": {`"mtu": \d+,`, `^pod net1 setting ipv[46]/conf/(arp|ndisc)_notify .*`},
	"bridge": {
		`^node (br0|cni0) has MAC [^,]*,`,
		`^node VETH .*txqueuelen \d+,`,
		// Whether duplicate address detection has begun, and ended.
		`^node br0(\.100)? has address 2001:.* flags \d+,`,
		`^node route 2001:.* on br0(\.100)? .* table 255 .*`,
	},
	"host-device": {`^(gone: )?node dev0 has flags .*`},
}

var fixed4 = object{"type": "static", "addresses": []object{{"address": "192.168.122.9/24"}}}

func hostLocalOf(fields object) object {
	return withFields(object{"type": "host-local", "dataDir": "LEASES"}, fields)
}

func dual() object {
	return hostLocalOf(object{"ranges": []any{[]any{object{"subnet": "10.50.0.0/24"}}, []any{object{"subnet": "2001:db8:50::/64"}}}})
}

// slaveCases are those that macvlan and ipvlan share.
func slaveCases(kind string) []conformance {
	on := func(fields object) object { return withFields(object{"type": kind, "master": "eth1"}, fields) }
	return []conformance{
		{name: "no ipam", config: on(nil), accepted: kind == "ipvlan"},
		{name: "static", config: on(object{"ipam": fixed4})},
		{name: "static with a gateway and a default route", config: on(object{"ipam": object{"type": "static",
			"addresses": []object{{"address": "192.168.122.9/24", "gateway": "192.168.122.1"}}, "routes": []object{{"dst": "0.0.0.0/0"}}}})},
		{name: "several addresses", config: on(object{"ipam": object{"type": "static", "addresses": []object{
			{"address": "192.168.122.9/24"}, {"address": "192.168.122.10/24"}, {"address": "10.9.0.1/16"}, {"address": "2001:db8:9::1/64"}}}})},
		{name: "routes with every attribute", differs: ` mtu \d+ advmss \d+`, config: on(object{"cniVersion": "1.1.0", "ipam": object{"type": "static",
			"addresses": []object{{"address": "192.168.122.9/24", "gateway": "192.168.122.1"}}, "routes": []object{
				{"dst": "198.51.100.0/24", "mtu": 1200, "advmss": 1100, "priority": 50},
				{"dst": "203.0.113.0/24", "gw": "192.168.122.2", "table": 100},
				{"dst": "203.0.114.0/24", "gw": "0.0.0.0", "scope": 253},
			}}})},
		{name: "dns", config: on(object{"ipam": fixed4, "dns": object{"nameservers": []string{"192.0.2.53"}, "search": []string{"example.org"}}})},
		{name: "host-local", config: on(object{"ipam": hostLocalOf(object{"subnet": "10.50.0.0/24"})})},
		{name: "host-local with routes", config: on(object{"ipam": hostLocalOf(object{"subnet": "10.50.0.0/24", "routes": []object{{"dst": "198.51.100.0/24"}}})})},
		{name: "host-local, both families", config: on(object{"ipam": dual()})},
		{name: "IPv6 with a gateway", config: on(object{"ipam": hostLocalOf(object{"subnet": "2001:db8:51::/64", "routes": []object{{"dst": "::/0"}}})})},
		{name: "an address asked for", config: on(object{"capabilities": object{"ips": true}, "ipam": object{"type": "static"}}),
			runtime: object{"ips": []string{"192.168.122.33/24"}}},
		{name: "an address by CNI_ARGS", config: on(object{"ipam": object{"type": "static"}}), args: "IP=192.168.122.34/24"},
		{name: "mtu", config: on(object{"mtu": 1300, "ipam": fixed4})},
		{name: "a master in the pod", config: withFields(on(object{"linkInContainer": true, "ipam": fixed4}), object{"master": "inner0"}), prepare: withInner},
		{name: "an unknown mode", config: on(object{"mode": "sideways"}), refused: true},
		{name: "an unknown master", config: on(object{"master": "nowhere0"}), refused: true},
		{name: "an mtu above the master's", config: on(object{"mtu": 9000}), refused: true},
		{name: "an mtu below IPv4's", config: on(object{"mtu": 67}), refused: true},
		{name: "a negative mtu", config: on(object{"mtu": -1}), refused: true},
		{name: "an unknown IPAM plugin", config: on(object{"ipam": object{"type": "nosuch"}}), refused: true},
		{name: "an IPAM plugin without an address", config: on(object{"ipam": object{"type": "static"}}), refused: true},
		{name: "an address that is none", config: on(object{"ipam": object{"type": "static", "addresses": []object{{"address": "nine"}}}}), refused: true},
		{name: "an unreachable gateway", config: on(object{"ipam": object{"type": "static", "addresses": []object{{"address": "192.168.122.9/24"}},
			"routes": []object{{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}}}}), refused: true},
	}
}

func macvlanCases() []conformance {
	on := func(fields object) object { return withFields(object{"type": "macvlan", "master": "eth1"}, fields) }
	cases := slaveCases("macvlan")
	for _, mode := range []string{"bridge", "private", "vepa", "passthru"} {
		cases = append(cases, conformance{name: "mode " + mode, config: on(object{"mode": mode})})
	}
	return append(cases,
		conformance{name: "a MAC", config: on(object{"mac": otherMAC})},
		conformance{name: "a MAC asked for", config: on(object{"capabilities": object{"mac": true}}), runtime: object{"mac": otherMAC}},
		conformance{name: "a MAC by CNI_ARGS", config: on(nil), args: "MAC=" + otherMAC},
		conformance{name: "bcqueuelen", config: on(object{"bcqueuelen": 77})},
		conformance{name: "a MAC that is none", config: on(object{"mac": "x"}), refused: true},
		conformance{name: "a group's MAC", config: on(object{"mac": "01:00:5e:00:00:01"}), refused: true},
	)
}

func ipvlanCases() []conformance {
	cases := slaveCases("ipvlan")
	for _, mode := range []string{"l2", "l3", "l3s"} {
		cases = append(cases, conformance{name: "mode " + mode, config: object{"type": "ipvlan", "master": "eth1", "mode": mode, "ipam": fixed4}})
	}
	return cases
}

func bridgeCases() []conformance {
	on := func(fields object) object { return withFields(object{"type": "bridge", "bridge": "br0"}, fields) }
	one := hostLocalOf(object{"subnet": "10.50.0.0/24"})
	return []conformance{
		{name: "no ipam", config: on(nil)},
		{name: "no name", config: object{"type": "bridge"}},
		{name: "an address", config: on(object{"ipam": one})},
		{name: "both families", config: on(object{"ipam": dual()})},
		{name: "isGateway", config: on(object{"isGateway": true, "ipam": one})},
		{name: "isGateway, both families", config: on(object{"isGateway": true, "ipam": dual()})},
		{name: "isGateway without a gateway from IPAM", config: on(object{"isGateway": true, "ipam": fixed4})},
		{name: "isDefaultGateway", config: on(object{"isDefaultGateway": true, "ipam": one})},
		{name: "isDefaultGateway, both families", config: on(object{"isDefaultGateway": true, "ipam": dual()})},
		{name: "isDefaultGateway beside a default route", accepted: true, config: on(object{"isDefaultGateway": true,
			"ipam": hostLocalOf(object{"subnet": "10.50.0.0/24", "routes": []object{{"dst": "0.0.0.0/0"}}})})},
		{name: "forceAddress", config: on(object{"isGateway": true, "forceAddress": true, "ipam": one}), prepare: withBridge("10.60.0.1/24")},
		{name: "another address without forceAddress", config: on(object{"isGateway": true, "ipam": one}), prepare: withBridge("10.60.0.1/24"), refused: true},
		{name: "the bridge is there", config: on(object{"isGateway": true, "ipam": one}), prepare: withBridge("10.50.0.1/24")},
		{name: "mtu", config: on(object{"mtu": 1400, "ipam": one})},
		{name: "hairpinMode", config: on(object{"hairpinMode": true})},
		{name: "promiscMode", config: on(object{"promiscMode": true})},
		{name: "portIsolation", config: on(object{"portIsolation": true})},
		{name: "disableContainerInterface", config: on(object{"disableContainerInterface": true})},
		{name: "a MAC", config: on(object{"mac": otherMAC}), differs: `MAC|` + otherMAC},
		{name: "a MAC asked for", config: on(object{"capabilities": object{"mac": true}}), runtime: object{"mac": otherMAC}},
		{name: "dns", config: on(object{"ipam": one, "dns": object{"nameservers": []string{"192.0.2.53"}}})},
		{name: "hairpin and promiscuous", config: on(object{"hairpinMode": true, "promiscMode": true}), refused: true},
		{name: "disableContainerInterface with ipam", config: on(object{"disableContainerInterface": true, "ipam": one}), refused: true},
		{name: "a VLAN out of range", config: on(object{"vlan": 5000}), refused: true},
		{name: "the name of another interface", config: on(object{"bridge": "eth1"}), refused: true},
	}
}

// vlanCases need a kernel whose bridges know VLANs.
func vlanCases() []conformance {
	on := func(fields object) object { return withFields(object{"type": "bridge", "bridge": "br0"}, fields) }
	return []conformance{
		{name: "vlan", config: on(object{"vlan": 100})},
		{name: "vlan with preserveDefaultVlan", config: on(object{"vlan": 100, "preserveDefaultVlan": true})},
		{name: "vlan without preserveDefaultVlan", config: on(object{"vlan": 100, "preserveDefaultVlan": false})},
		{name: "vlanTrunk", config: on(object{"vlanTrunk": []object{{"id": 42}, {"minID": 100, "maxID": 105}}})},
		{name: "vlan and vlanTrunk", config: on(object{"vlan": 7, "vlanTrunk": []object{{"id": 42}}})},
		{name: "vlan with a gateway", config: on(object{"vlan": 100, "isGateway": true, "ipam": hostLocalOf(object{"subnet": "10.50.0.0/24"})})},
		{name: "vlanTrunk backwards", config: on(object{"vlanTrunk": []object{{"minID": 9, "maxID": 8}}}), refused: true},
	}
}

func deviceCases() []conformance {
	on := func(fields object) object { return withFields(object{"type": "host-device", "device": "dev0"}, fields) }
	byMAC := withFields(on(nil), object{"hwaddr": otherMAC})
	delete(byMAC, "device")
	return []conformance{
		{name: "device", config: on(nil), prepare: withDevice},
		{name: "hwaddr", config: byMAC, prepare: withDevice},
		{name: "with an address", config: on(object{"ipam": fixed4}), prepare: withDevice},
		{name: "with a route", config: on(object{"ipam": object{"type": "static", "addresses": []object{{"address": "192.168.122.9/24"}},
			"routes": []object{{"dst": "198.51.100.0/24", "gw": "192.168.122.1"}}}}), prepare: withDevice},
		{name: "no device", config: object{"type": "host-device"}, refused: true},
		{name: "an unknown device", config: on(object{"device": "nowhere0"}), refused: true},
	}
}

func withInner(n *Node) {
	n.tb.Helper()
	lan.Join(n.tb, n.pods[len(n.pods)-1].Host, "inner0", n.outside, "inner0")
}

func withBridge(address string) func(*Node) {
	return func(n *Node) {
		n.tb.Helper()
		if err := n.machine.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
			n.tb.Fatal(err)
		}
		n.machine.Address("br0", address)
	}
}

func withDevice(n *Node) {
	n.tb.Helper()
	lan.Join(n.tb, n.machine, "dev0", n.outside, "dev0")
	mac, err := net.ParseMAC(otherMAC)
	if err != nil {
		n.tb.Fatal(err)
	}
	if err := n.machine.Netlink().LinkSetHardwareAddr(n.machine.Link("dev0"), mac); err != nil {
		n.tb.Fatal(err)
	}
}

// clear removes what a case left on the machine by right: bridges, and what was
// made for it.
func (n *Node) clear() {
	n.tb.Helper()
	for _, name := range []string{"br0", "cni0", "dev0"} {
		if link, err := n.machine.Netlink().LinkByName(name); err == nil {
			_ = n.machine.Netlink().LinkDel(link)
		}
	}
}

// reference executes a reference plugin on the machine, as a runtime does.
func (n *Node) executeReference(command string, c conformance, p *Pod, previous json.RawMessage) ([]byte, error) {
	n.tb.Helper()
	config := withFields(n.localised(c.config), object{"name": "conformance"})
	if c.runtime != nil {
		config["runtimeConfig"] = c.runtime
	}
	if previous != nil {
		config["prevResult"] = previous
	}
	cmd := exec.Command(filepath.Join(referencePlugins(n.tb), c.config["type"].(string)))
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + p.ID, "CNI_NETNS=" + p.Path(), "CNI_IFNAME=net1",
		"CNI_ARGS=" + joined("IgnoreUnknown=1", c.args), "CNI_PATH=" + referencePlugins(n.tb),
	}
	cmd.Stdin = strings.NewReader(toJSON(n.tb, config))
	var out bytes.Buffer
	cmd.Stdout = &out
	var err error
	n.machine.Do(func() error {
		err = cmd.Run()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out.Bytes())
	}
	return out.Bytes(), nil
}

func joined(args, more string) string {
	if more == "" {
		return args
	}
	return args + ";" + more
}

// localised is a configuration with the machine's own paths, and a version.
func (n *Node) localised(config object) object {
	n.tb.Helper()
	text := strings.ReplaceAll(toJSON(n.tb, config), `"LEASES"`, `"`+n.path("leases")+`"`)
	own := object{}
	if err := json.Unmarshal([]byte(text), &own); err != nil {
		n.tb.Fatal(err)
	}
	if own["cniVersion"] == nil {
		own["cniVersion"] = "1.0.0"
	}
	return own
}

// executeWeir has weir make the case as its default network, whose result it
// prints.
func (n *Node) executeWeir(command string, c conformance, p *Pod, previous json.RawMessage) ([]byte, error) {
	n.tb.Helper()
	config := withFields(n.localised(c.config), object{"name": "conformance"})
	request := call{
		command: command, id: p.ID, netns: p.Path(), ifname: "net1", args: joined("IgnoreUnknown=1", c.args),
		config: object{"cniVersion": config["cniVersion"], "name": "weir", "type": "weir", "socket": n.socket(), "delegates": []any{config}},
	}
	if c.runtime != nil {
		request.config["runtimeConfig"] = c.runtime
	}
	if previous != nil {
		request.config["prevResult"] = previous
	}
	out, failure := n.Call(request)
	if failure != nil {
		return nil, failure
	}
	return out, nil
}

// executor is one of the two ways to make a case.
type executor struct {
	*Node
	isWeir  bool
	execute func(command string, c conformance, p *Pod, previous json.RawMessage) ([]byte, error)
}

func TestNetnsConformance(t *testing.T) {
	beside(t, thinned(map[string][]conformance{"macvlan": macvlanCases(), "bridge": bridgeCases(), "host-device": deviceCases()}))
}

// thinned are all cases, or one of five where all is slow.
func thinned(cases map[string][]conformance) map[string][]conformance {
	for kind, all := range cases {
		cases[kind] = all[:0:0]
		for i, c := range all {
			if hasGo() || i%5 == 0 {
				cases[kind] = append(cases[kind], c)
			}
		}
	}
	return cases
}

func TestKernelsConformance(t *testing.T) {
	beside(t, map[string][]conformance{"ipvlan": ipvlanCases(), "bridge with VLANs": vlanCases()})
}

// beside makes every case on two machines and compares them.
func beside(t *testing.T, cases map[string][]conformance) {
	t.Helper()
	ours, theirs := newNode(t), newIdleNode(t)
	weir, reference := executor{ours, true, ours.executeWeir}, executor{theirs, false, theirs.executeReference}
	for _, kind := range slices.Sorted(maps.Keys(cases)) {
		for _, c := range cases[kind] {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				ours.within(t)
				theirs.within(t)
				want, got := reference.life(t, c), weir.life(t, c)
				if c.accepted {
					if !want.Refused || got.Refused {
						t.Errorf("refused by the reference %v, by weir %v", want.Refused, got.Refused)
					}
					return
				}
				if got.CheckFails {
					t.Error("weir's CHECK fails")
				}
				if diff := cmp.Diff(c.but(want), c.but(got)); diff != "" {
					t.Errorf("(-reference +weir):\n%s", diff)
				}
			})
		}
	}
}

// life is what an observer sees of a case: after ADD, and after DEL.
type life struct {
	Refused                bool
	Result, Added, Deleted []string
	// CheckFails is the reference's own affair, which cannot check all that it makes.
	CheckFails bool
}

// but leaves out what differs on purpose.
func (c conformance) but(l life) life {
	kind := c.config["type"].(string)
	patterns := slices.Concat(intended[""], intended[kind])
	if c.differs != "" {
		patterns = append(patterns, c.differs)
	}
	pattern := regexp.MustCompile(strings.Join(patterns, "|"))
	for _, lines := range []*[]string{&l.Result, &l.Added, &l.Deleted} {
		for i, line := range *lines {
			(*lines)[i] = pattern.ReplaceAllString(line, "")
		}
		*lines = slices.DeleteFunc(*lines, func(line string) bool { return strings.TrimSpace(line) == "" })
	}
	l.CheckFails = false
	return l
}

func (e executor) life(t *testing.T, c conformance) life {
	t.Helper()
	pod := e.newPod(e.unique("pod"))
	defer pod.Remove()
	defer e.clear()
	if c.prepare != nil {
		c.prepare(e.Node)
	}
	before := e.view(t, pod)
	out, err := e.execute("ADD", c, pod, nil)
	if err != nil {
		if !c.refused && !c.accepted {
			t.Errorf("ADD: %v", err)
		}
		if _, err := e.execute("DEL", c, pod, nil); err != nil && e.isWeir {
			t.Errorf("DEL after the ADD that was refused: %v", err)
		}
		return life{Refused: true}
	}
	l := life{Result: e.normalResult(t, out, pod), Added: difference(before, e.view(t, pod))}
	if version, _ := c.config["cniVersion"].(string); version == "" || version >= "0.4.0" { // which brought CHECK
		_, err = e.execute("CHECK", c, pod, out)
		l.CheckFails = err != nil
	}
	if l.CheckFails {
		t.Logf("CHECK: %v", err)
	}
	if _, err := e.execute("DEL", c, pod, out); err != nil {
		t.Errorf("DEL: %v", err)
	}
	l.Deleted = difference(before, e.view(t, pod))
	return l
}

// difference is what is there and was not, and, marked, what was there and is not.
func difference(before, after []string) []string {
	all := []string{}
	for _, line := range after {
		if !slices.Contains(before, line) {
			all = append(all, line)
		}
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			all = append(all, "gone: "+line)
		}
	}
	return all
}

var (
	vethName = regexp.MustCompile(`veth[0-9a-f]{8}`)
	anyMAC   = regexp.MustCompile(`([0-9a-f]{2}:){5}[0-9a-f]{2}`)
)

// normal replaces what is random in a text.
func normal(text string) string {
	text = anyMAC.ReplaceAllStringFunc(text, func(mac string) string {
		if mac == otherMAC {
			return mac
		}
		return "MAC"
	})
	return vethName.ReplaceAllString(text, "VETH")
}

func (e executor) normalResult(t *testing.T, out []byte, p *Pod) []string {
	t.Helper()
	var result bytes.Buffer
	if err := json.Indent(&result, out, "", " "); err != nil {
		t.Fatal(err)
	}
	text := normal(strings.ReplaceAll(result.String(), p.Path(), "POD"))
	return strings.Split(strings.TrimSpace(text), "\n")
}

// view is all that can be seen of the pod and of the machine.
func (e executor) view(t *testing.T, p *Pod) []string {
	t.Helper()
	all := append(viewOf(t, "pod", p.Host), viewOf(t, "node", e.machine)...)
	slices.Sort(all)
	return all
}

func viewOf(t *testing.T, whose string, h *lan.Host) []string {
	t.Helper()
	links, err := netns.Dump(h.Netlink().LinkList)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	names := map[int]string{0: "-"}
	for _, l := range links {
		names[l.Attrs().Index] = vethName.ReplaceAllString(l.Attrs().Name, "VETH")
	}
	for _, l := range links {
		name := names[l.Attrs().Index]
		add := func(format string, args ...any) {
			all = append(all, whose+" "+name+" "+normal(fmt.Sprintf(format, args...)))
		}
		viewLink(add, l, names)
		viewAddresses(t, h, add, l)
		if hasGo() || whose == "pod" { // else all is slow
			viewSettings(t, h, add, l.Attrs().Name)
		}
	}
	for _, line := range routesAndNeighbours(t, h, names) {
		all = append(all, whose+" "+normal(line))
	}
	return append(all, bridgeVLANs(h, whose, names)...)
}

func viewLink(add func(string, ...any), l netlink.Link, names map[int]string) {
	a := l.Attrs()
	add("is a %s", l.Type())
	add("has MAC %s, MTU %d, txqueuelen %d, alias %q, group %d", a.HardwareAddr, a.MTU, a.TxQLen, a.Alias, a.Group)
	add("has flags %s, promiscuity %d, allmulti %d, %d queues", a.Flags&^net.FlagRunning, a.Promisc, a.Allmulti, a.NumTxQueues)
	add("has master %s", names[a.MasterIndex])
	if p := a.Protinfo; p != nil {
		add("is a port: %s", p)
	}
	switch l := l.(type) {
	case *netlink.Macvlan:
		add("has mode %d, bcqueuelen %d", l.Mode, l.UsedBCQueueLen)
	case *netlink.IPVlan:
		add("has mode %d, flag %d", l.Mode, l.Flag)
	case *netlink.Bridge:
		add("filters VLANs %v, snoops %v, default VLAN %v", value(l.VlanFiltering), value(l.MulticastSnooping), value(l.VlanDefaultPVID))
	}
}

func value[T any](p *T) any {
	if p == nil {
		return "-"
	}
	return *p
}

// viewAddresses leaves out link-local ones, which follow from the MAC.
func viewAddresses(t *testing.T, h *lan.Host, add func(string, ...any), l netlink.Link) {
	t.Helper()
	addresses, err := netns.Dump(func() ([]netlink.Addr, error) { return h.Netlink().AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if a.IP.IsLinkLocalUnicast() {
			continue
		}
		add("has address %s, label %q, broadcast %v, flags %x, scope %d", a.IPNet, vethName.ReplaceAllString(a.Label, "VETH"),
			a.Broadcast, a.Flags&^unix.IFA_F_TENTATIVE, a.Scope)
	}
}

// viewSettings lists the kernel's settings of an interface. Reachable times are
// random.
func viewSettings(t *testing.T, h *lan.Host, add func(string, ...any), ifname string) {
	t.Helper()
	h.Do(func() error {
		for _, dir := range []string{"ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"} {
			root := filepath.Join("/proc/sys/net", dir, ifname)
			err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return nil
				}
				data, err := os.ReadFile(path)
				if err == nil && !strings.Contains(path, "stable_secret") {
					add("setting %s/%s %s", dir, filepath.Base(path), bytes.TrimSpace(data))
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func routesAndNeighbours(t *testing.T, h *lan.Host, names map[int]string) []string {
	t.Helper()
	routes, err := netns.Dump(func() ([]netlink.Route, error) {
		return h.Netlink().RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range routes {
		// What the kernel makes of link-local addresses comes when it comes.
		if r.Dst != nil && (r.Dst.IP.IsLinkLocalUnicast() || r.Dst.IP.IsMulticast()) {
			continue
		}
		// Whether the link is up at this moment is in the flags too.
		all = append(all, fmt.Sprintf("route %s via %s on %s src %s table %d metric %d scope %d protocol %d type %d mtu %d advmss %d flags %x",
			r.Dst, r.Gw, names[r.LinkIndex], r.Src, r.Table, r.Priority, r.Scope, r.Protocol, r.Type, r.MTU, r.AdvMSS, r.Flags&unix.RTNH_F_ONLINK))
	}
	neighbours, err := netns.Dump(func() ([]netlink.Neigh, error) { return h.Netlink().NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range neighbours {
		if n.State&(unix.NUD_PERMANENT) != 0 {
			all = append(all, fmt.Sprintf("neighbour %s at %s on %s flags %x", n.IP, n.HardwareAddr, names[n.LinkIndex], n.Flags))
		}
	}
	return all
}

func bridgeVLANs(h *lan.Host, whose string, names map[int]string) []string {
	vlans, err := h.Netlink().BridgeVlanList()
	if err != nil {
		return nil // a kernel whose bridges know no VLANs
	}
	var all []string
	for index, list := range vlans {
		for _, v := range list {
			all = append(all, fmt.Sprintf("%s %s in VLAN %d, flags %x", whose, names[int(index)], v.Vid, v.Flags))
		}
	}
	return all
}

// Results come in the version that was asked for, each the same as the reference's.
func TestNetnsConformanceOfVersions(t *testing.T) {
	cases := map[string][]conformance{}
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		for kind, config := range map[string]object{
			"macvlan":     {"type": "macvlan", "master": "eth1", "ipam": dual()},
			"bridge":      {"type": "bridge", "bridge": "br0", "isGateway": true, "ipam": dual()},
			"host-device": {"type": "host-device", "device": "dev0", "ipam": fixed4},
		} {
			c := conformance{name: version, config: withFields(config, object{"cniVersion": version})}
			if kind == "host-device" {
				c.prepare = withDevice
			}
			cases[kind] = append(cases[kind], c)
		}
	}
	beside(t, thinned(cases))
}
