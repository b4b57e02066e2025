// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/tests/lan"
)

// theRules let a pod talk to a database and to DNS, and be talked to but on some ports.
// They know no connections: what the pod answers has a rule of its own.
func theRules() []object {
	peers := []string{outsideAddress + "/32", outsideAddress6 + "/128"}
	return []object{
		{"name": "ping", "action": "allow", "protocol": "icmp"},
		{"name": "db", "direction": "egress", "action": "allow", "cidrs": peers, "protocol": "tcp", "ports": []string{"5432"}},
		{"name": "dns", "direction": "egress", "action": "allow", "protocol": "udp", "ports": []string{"53"}},
		{"name": "answers", "direction": "egress", "action": "allow", "protocol": "tcp", "ports": []string{"32768-60999"}},
		{"direction": "egress", "action": "deny"},
		{"name": "services", "direction": "ingress", "action": "deny", "protocol": "tcp", "ports": []string{"1-1023"}},
		{"name": "quiet", "direction": "ingress", "action": "deny", "protocol": "udp", "ports": []string{"7000-7099"}},
	}
}

// theRest is the rule without a name, which is its number.
const theRest = "4"

// ruled is a pod on a network with theRules, and what each of them has decided.
type ruled struct {
	*Node
	pod    *Pod
	before snapshot // of the node, without the attachment
	want   map[string]api.Traffic
}

// newRuled leaves the neighbours known, so that later packets go out at once.
func newRuled(t *testing.T, n *Node) *ruled {
	t.Helper()
	idle := n.idle()
	ipam := object{"type": "static", "addresses": []object{{"address": podAddress + "/24"}, {"address": podAddress6 + "/64"}}}
	n.Network("lan", macvlan(object{"ipam": ipam, "weir": object{"rules": theRules()}}))
	r := &ruled{Node: n, pod: n.Pod("web", "lan"), want: map[string]api.Traffic{}}
	r.before = n.with(idle, r.pod)
	n.mustAdd(r.pod)
	n.awaitHook(r.pod)
	for _, address := range []string{podAddress, podAddress6} {
		if got := n.ping(n.outside, address, 2); got != 2 {
			t.Fatalf("%d of 2 pings of %s answered", got, address)
		}
	}
	return r
}

// hits are what weirctl has of the rules but for that of ICMP, which the kernels use as
// they like.
func (r *ruled) hits() map[string]api.Traffic {
	r.tb.Helper()
	all := map[string]api.Traffic{}
	for _, rule := range r.Attachment(r.pod, "net1").Rules {
		if rule.Rule.Rule != "ping" && rule.Packets > 0 {
			all[rule.Rule.Rule] = api.Traffic{Packets: rule.Packets, Bytes: rule.Bytes}
		}
	}
	return all
}

func (r *ruled) count(rule string, bytes int) {
	n := r.want[rule]
	r.want[rule] = api.Traffic{Packets: n.Packets + 1, Bytes: n.Bytes + uint64(bytes)}
}

// header is the length of the headers of Ethernet and IP towards an address.
func header(address string) int {
	if netip.MustParseAddr(address).Is6() {
		return 14 + 40
	}
	return 14 + 20
}

const greeting = "hello"

// tells sends a datagram, which is heard or not.
func (r *ruled) tells(t *testing.T, from, to *lan.Host, address, port string, heard bool) {
	t.Helper()
	target := net.JoinHostPort(address, port)
	var listener net.PacketConn
	to.Do(func() (err error) {
		listener, err = net.ListenPacket("udp", target)
		return err
	})
	defer listener.Close()
	from.Do(func() error {
		conn, err := net.Dial("udp", target)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(greeting))
		return err
	})
	patience := 200 * time.Millisecond
	if heard {
		patience = 10 * time.Second
	}
	_ = listener.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := listener.ReadFrom(make([]byte, 100)); (err == nil) != heard {
		t.Errorf("a datagram to %s: heard %t, want %t", target, err == nil, heard)
	}
}

// connects has one host connect to another, which reads all that it is told and answers.
func (r *ruled) connects(t *testing.T, from, to *lan.Host, address, port string) {
	t.Helper()
	target := net.JoinHostPort(address, port)
	var listener net.Listener
	to.Do(func() (err error) {
		listener, err = net.Listen("tcp", target)
		return err
	})
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_, _ = io.CopyN(conn, conn, int64(len(greeting)))
			_ = conn.Close()
		}
	}()
	from.Do(func() error {
		conn, err := net.DialTimeout("tcp", target, 10*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err = conn.Write([]byte(greeting)); err != nil {
			return err
		}
		got, err := io.ReadAll(conn)
		if string(got) != greeting {
			t.Errorf("%s answered %q, error %v", target, got, err)
		}
		return nil
	})
}

// knocks sends one SYN, and forgets the connection before the next.
func knocks(from *lan.Host, address string, port int) {
	ip := netip.MustParseAddr(address)
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: port})
	if ip.Is4() {
		to.(*unix.SockaddrInet4).Addr = ip.As4()
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: ip.As16()}
	}
	from.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, to); err != unix.EINPROGRESS {
			return fmt.Errorf("connecting to %s: %w", address, err)
		}
		return nil
	})
}

// sizeOfSYN is that of TCP's header with the options that Linux sends.
const sizeOfSYN = 20 + 20

// talk sends of everything a bit, to ports that are allowed and to ports that are not.
func (r *ruled) talk(t *testing.T, outside, pod string) {
	t.Helper()
	const sizeOfUDP = 8
	for range 3 {
		r.tells(t, r.pod.Host, r.outside, outside, "53", true)
	}
	for range 2 {
		r.tells(t, r.pod.Host, r.outside, outside, "54", false)
		r.count(theRest, header(outside)+sizeOfUDP+len(greeting))
		knocks(r.pod.Host, outside, 5433)
		r.count(theRest, header(outside)+sizeOfSYN)
		r.tells(t, r.outside, r.pod.Host, pod, "7001", false)
		r.count("quiet", header(pod)+sizeOfUDP+len(greeting))
		knocks(r.outside, pod, 80)
		r.count("services", header(pod)+sizeOfSYN)
	}
	r.tells(t, r.outside, r.pod.Host, pod, "7100", true)
	r.connects(t, r.pod.Host, r.outside, outside, "5432")
	r.connects(t, r.outside, r.pod.Host, pod, "8080")
}

// passed adds what has arrived from the pod, by the rules that have allowed it.
func passed(t *testing.T, want map[string]api.Traffic, frames []lan.Captured) map[string]api.Traffic {
	t.Helper()
	all := map[string]api.Traffic{}
	for rule, n := range want {
		all[rule] = n
	}
	for _, f := range frames {
		packet := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.Default)
		rule := ""
		tcp, isTCP := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
		udp, isUDP := packet.Layer(layers.LayerTypeUDP).(*layers.UDP)
		switch {
		case f.Outgoing:
		case isTCP && tcp.DstPort == 5432:
			rule = "db"
		case isTCP && tcp.SrcPort == 8080:
			rule = "answers"
		case isUDP && udp.DstPort == 53:
			rule = "dns"
		case isTCP || isUDP:
			t.Errorf("the pod has sent %v", packet)
		}
		if rule != "" {
			n := all[rule]
			all[rule] = api.Traffic{Packets: n.Packets + 1, Bytes: n.Bytes + uint64(len(f.Data))}
		}
	}
	return all
}

// checkHits compares the hits with what was sent, once the last connection is through.
func (r *ruled) checkHits(t *testing.T, captured *lan.Capture) map[string]api.Traffic {
	t.Helper()
	var diff string
	for range 50 {
		want, got := passed(t, r.want, captured.Frames()), r.hits()
		if diff = gocmp.Diff(want, got); diff == "" {
			return got
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("hits (-want +got):\n%s", diff)
	return nil
}

// Rules decide on what pods send and receive, in both versions of IP, and every packet on
// which one has decided is its hit, wherever one looks.
func TestNetnsRules(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	r := newRuled(t, n)
	captured := n.outside.Capture("eth1")
	r.talk(t, outsideAddress, podAddress)
	r.checkHits(t, captured)
	r.talk(t, outsideAddress6, podAddress6)
	hits := r.checkHits(t, captured)
	r.checkDrops(t)
	n.checkNumbersAgree(t, r.pod)
	r.checkOrder(t)

	n.Restart()
	if diff := gocmp.Diff(hits, r.hits()); diff != "" {
		t.Errorf("hits after the agent's restart (-before +after):\n%s", diff)
	}
	n.checkNumbersAgree(t, r.pod)
	r.talk(t, outsideAddress, podAddress)
	hits = r.checkHits(t, captured)
	n.Kill()
	if diff := gocmp.Diff(hits, r.hits()); diff != "" {
		t.Errorf("hits without an agent (-before +after):\n%s", diff)
	}
	n.Start()
	n.mustCheck(r.pod)
	n.mustDel(r.pod)
	n.mustBe(r.before)
}

// An agent of another build has the same rules in its programs, and goes on with the hits.
func TestNetnsUpgradeKeepsHits(t *testing.T) {
	other := otherAgent(t)
	n := newNode(t)
	warmUp(n)
	r := newRuled(t, n)
	captured := n.outside.Capture("eth1")
	r.talk(t, outsideAddress, podAddress)
	r.checkHits(t, captured)
	n.upgrade(r.pod, other)
	r.talk(t, outsideAddress6, podAddress6)
	r.checkHits(t, captured)
	n.mustCheck(r.pod)
	n.mustDel(r.pod)
	n.mustBe(r.before)
}

// checkDrops makes sure that what rules deny is dropped for that reason.
func (r *ruled) checkDrops(t *testing.T) {
	t.Helper()
	drops := map[string]api.Traffic{}
	for _, d := range r.Attachment(r.pod, "net1").Dropped {
		if d.Reason != "rule_denied" {
			t.Errorf("dropped: %+v", d)
		}
		drops[d.Direction] = api.Traffic{Packets: d.Packets, Bytes: d.Bytes}
	}
	quiet, services := r.want["quiet"], r.want["services"]
	want := map[string]api.Traffic{
		"egress":  r.want[theRest],
		"ingress": {Packets: quiet.Packets + services.Packets, Bytes: quiet.Bytes + services.Bytes},
	}
	if diff := gocmp.Diff(want, drops); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
}

// checkOrder makes sure that every rule is shown, those of ingress first.
func (r *ruled) checkOrder(t *testing.T) {
	t.Helper()
	var names []string
	for _, rule := range r.Attachment(r.pod, "net1").Rules {
		names = append(names, rule.Direction+" "+rule.Rule.Rule+" "+rule.Action)
	}
	want := []string{
		"ingress ping allow", "ingress services deny", "ingress quiet deny",
		"egress ping allow", "egress db allow", "egress dns allow", "egress answers allow", "egress 4 deny",
	}
	if diff := gocmp.Diff(want, names); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

// Each rule that cannot be kept is refused with the place of the fault, and nothing is
// made.
func TestNetnsBadRules(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	idle := n.idle()
	deny := func(fields object) object {
		all := object{"action": "deny"}
		for key, value := range fields {
			all[key] = value
		}
		return all
	}
	tests := []struct {
		name  string
		rules any
		want  string
	}{
		{"no list", object{"action": "deny"}, "rules: want a list of objects"},
		{"no object", []string{"deny"}, "rules[0]: want an object"},
		{"no action", []object{{"direction": "egress"}}, `rules[0].action: "" is neither "allow" nor "deny"`},
		{"another action", []object{deny(nil), {"action": "drop"}}, `rules[1].action: "drop"`},
		{"a key that is none", []object{deny(object{"port": "80"})}, "rules[0].port: no such key"},
		{"another direction", []object{deny(object{"direction": "out"})}, `rules[0].direction: "out"`},
		{"host bits", []object{deny(object{"cidrs": []string{"10.0.0.1/8"}})}, "10.0.0.1/8 has host bits: want 10.0.0.0/8"},
		{"no CIDR", []object{deny(object{"cidrs": []string{"lan"}})}, "rules[0].cidrs: "},
		{"an empty list of CIDRs", []object{deny(object{"cidrs": []string{}})}, "rules[0].cidrs: leave it out for all"},
		{"ports of no protocol", []object{deny(object{"ports": []string{"80"}})}, "rules[0].ports: only with the protocol"},
		{"ports as numbers", []object{deny(object{"protocol": "tcp", "ports": []int{80}})}, "rules[0].ports: "},
		{"a port that is none", []object{deny(object{"protocol": "tcp", "ports": []string{"65536"}})}, `"65536" is neither a port nor a range`},
		{"a range that ends before", []object{deny(object{"protocol": "tcp", "ports": []string{"9-8"}})}, `"9-8" ends before it begins`},
		{"another protocol", []object{deny(object{"protocol": "http"})}, `rules[0].protocol: "http"`},
		{"a name twice", []object{deny(object{"name": "a"}), deny(object{"name": "a"})}, `rules[1].name: "a" is that of rules[0]`},
		{"a name as a number", []object{deny(object{"name": "1"})}, `rules[0].name: "1"`},
		{"too many", slices.Repeat([]object{deny(nil)}, 65), "rules: 65 of ingress, want 64 at most"},
		{"too many entries", raggedRules(), "rules: the ports of egress take "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bad := badInput{
				networks: theNetwork, code: types.ErrInvalidNetworkConfig, want: []string{"/lan", test.want},
				defined: withLAN(object{"weir": object{"rules": test.rules}}),
			}
			bad.run(t, n, idle, func(p *Pod) { bad.want = append(bad.want, "pod "+n.namespace+"/"+cmp.Or(bad.pod, p.Name)) })
		})
	}
}

// raggedRules are of ranges that take more entries than there may be.
func raggedRules() []object {
	var rules []object
	for i := range 60 {
		var ports []string
		for j := range 16 {
			from := 1 + (i*16+j)*37
			ports = append(ports, fmt.Sprintf("%d-%d", from, from+20001+i))
		}
		rules = append(rules, object{"direction": "egress", "action": "allow", "protocol": []string{"tcp", "udp", "sctp"}[i%3], "ports": ports})
	}
	return rules
}
