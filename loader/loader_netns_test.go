// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf/rlimit"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

const (
	podAddress = "192.0.2.2"
	lanAddress = "192.0.2.1"
)

var allChecks = bpf.CheckMAC | bpf.CheckIPv4 | bpf.CheckIPv6 | bpf.CheckVLAN | bpf.CheckDoubleTag | bpf.CheckARP | bpf.CheckNeighbour |
	bpf.CheckDHCP | bpf.CheckRouter | bpf.CheckSourceRoute | bpf.CheckRoutingHeader | bpf.CheckEthertype | bpf.CheckDestination | bpf.CheckQuerier

// bench is a pod whose net1 is guarded and joined to an outside host's eth0.
type bench struct {
	pod, outside *lan.Host
	ns           *netns.Namespace
	loader       *Loader
	guard        *Guard
	spec         Spec
	// at is where the guard is: on net1 of the pod, if not elsewhere.
	at Place
	// node has the port that the cable to outside is in.
	node *lan.Host
	port string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	// Before 5.11 maps count as locked memory, of which there is little.
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	loader, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return newBenchWith(t, loader)
}

func newBenchWith(t *testing.T, loader *Loader) *bench {
	t.Helper()
	b := &bench{pod: lan.NewHost(t), outside: lan.NewHost(t), loader: loader}
	lan.Join(t, b.pod, "net1", b.outside, "eth0")
	b.node, b.port = b.pod, "net1"
	b.finish(t)
	return b
}

// finish gives the ends of the cable addresses, and the pod's a guard.
func (b *bench) finish(t *testing.T) {
	t.Helper()
	b.pod.Address("net1", podAddress+"/24", "2001:db8::2/64")
	b.outside.Address("eth0", lanAddress+"/24", "2001:db8::1/64")
	var err error
	if b.ns, err = netns.Open(b.pod.Path()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.ns.Close() })
	if b.at.Namespace == nil {
		b.at = Place{Namespace: b.ns, Interface: "net1"}
	}
	b.attach(t)
}

func (b *bench) place() Place { return b.at }

func (b *bench) attach(t *testing.T) {
	t.Helper()
	mac := b.pod.Link("net1").Attrs().HardwareAddr
	linkLocal := LinkLocal(mac)
	b.spec = Spec{
		Dir:         pinDir(t, "net1"),
		Interface:   "net1",
		Pod:         "default/web",
		Network:     "default/lan",
		ContainerID: "c0ffee",
		Checks:      allChecks,
		Addresses: Addresses{MAC: mac, Prefixes: []netip.Prefix{
			netip.MustParsePrefix(podAddress + "/32"),
			netip.MustParsePrefix("2001:db8::2/128"),
			netip.PrefixFrom(linkLocal, 128),
		}},
	}
	var err error
	if b.guard, err = b.loader.Load(b.spec); err != nil {
		t.Fatalf("%+v", err)
	}
	if err := b.loader.Attach(b.place(), b.guard, b.spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.guard.Close() })
}

var dirs atomic.Uint32

// pinDir is a directory of pins that goes with the test.
func pinDir(t *testing.T, name string) string {
	t.Helper()
	root := fmt.Sprintf("/sys/fs/bpf/weir-test-%d-%d", os.Getpid(), dirs.Add(1))
	if err := EnsureFilesystem(root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	dir, err := Reserve(root, name)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (b *bench) count(t *testing.T, d bpf.Direction, reason string) bpf.Count {
	t.Helper()
	counters, err := b.guard.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for v := range bpf.Verdicts() {
		if v.Reason() == reason {
			return counters.Of(d, v)
		}
	}
	t.Fatalf("no verdict %s", reason)
	return bpf.Count{}
}

func (b *bench) ping(t *testing.T) {
	t.Helper()
	if got := b.outside.Ping(t.Context(), podAddress, 3); got != 3 {
		t.Fatalf("%d of 3 pings answered", got)
	}
}

func TestNetnsGuardCountsAndDrops(t *testing.T) {
	b := newBench(t)
	if got := HookOf(b.guard.Dir()); got != Clsact {
		t.Errorf("hook %s before promotion, want %s", got, Clsact)
	}
	if err := b.guard.Check(b.place()); err != nil {
		t.Error(err)
	}
	b.ping(t)
	if got := b.count(t, bpf.Egress, "allowed").Packets; got < 3 {
		t.Errorf("%d packets counted out, want 3 or more", got)
	}
	b.pod.Send("net1", spoofed(t, b))
	if got, want := b.count(t, bpf.Egress, "spoofed_ipv4"), (bpf.Count{Packets: 1, Bytes: 60}); got != want {
		t.Errorf("spoofed: %v, want %v", got, want)
	}
}

func spoofed(t *testing.T, b *bench) []byte {
	t.Helper()
	return lan.Frame(t,
		&layers.Ethernet{
			SrcMAC: b.pod.Link("net1").Attrs().HardwareAddr, DstMAC: b.outside.Link("eth0").Attrs().HardwareAddr,
			EthernetType: layers.EthernetTypeIPv4,
		},
		&layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{192, 0, 2, 66}, DstIP: net.IP{192, 0, 2, 1}},
		&layers.UDP{SrcPort: 7, DstPort: 7}, gopacket.Payload(make([]byte, 18)))
}

// Every kind of spoof that a raw socket can send is refused, and none arrives.
func TestNetnsSpoofsOfEachKindAreRefused(t *testing.T) {
	b := newBench(t)
	pod, outside := b.pod.Link("net1").Attrs().HardwareAddr, b.outside.Link("eth0").Attrs().HardwareAddr
	foreign := net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	eth := func(source net.HardwareAddr, kind layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: source, DstMAC: outside, EthernetType: kind}
	}
	v4 := func(source string) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(source), DstIP: net.ParseIP(lanAddress)}
	}
	v6 := func(source string) *layers.IPv6 {
		return &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: layers.IPProtocolUDP, SrcIP: net.ParseIP(source), DstIP: net.ParseIP("2001:db8::1")}
	}
	arp := func(mac net.HardwareAddr, ip string) *layers.ARP {
		return &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPReply, SourceHwAddress: mac, SourceProtAddress: net.ParseIP(ip).To4(),
			DstHwAddress: outside, DstProtAddress: net.ParseIP(lanAddress).To4(),
		}
	}
	udp := &layers.UDP{SrcPort: 7, DstPort: 7}
	tests := []struct {
		reason string
		frame  []byte
	}{
		{"spoofed_mac", lan.Frame(t, eth(foreign, layers.EthernetTypeIPv4), v4(podAddress), udp)},
		{"spoofed_ipv4", lan.Frame(t, eth(pod, layers.EthernetTypeIPv4), v4("192.0.2.66"), udp)},
		{"spoofed_ipv6", lan.Frame(t, eth(pod, layers.EthernetTypeIPv6), v6("2001:db8::66"), udp)},
		{"spoofed_arp_mac", lan.Frame(t, eth(pod, layers.EthernetTypeARP), arp(foreign, podAddress))},
		{"spoofed_arp_ip", lan.Frame(t, eth(pod, layers.EthernetTypeARP), arp(pod, "192.0.2.66"))},
		{"vlan_tagged", lan.Frame(t, eth(pod, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 9, Type: layers.EthernetTypeIPv4}, v4(podAddress), udp)},
		{"malformed", lan.Frame(t, eth(pod, layers.EthernetTypeIPv4), v4(podAddress))[:30]},
	}
	capture := b.outside.Capture("eth0")
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			before := b.count(t, bpf.Egress, test.reason)
			b.pod.Send("net1", test.frame)
			after := b.count(t, bpf.Egress, test.reason)
			if got := after.Packets - before.Packets; got != 1 {
				t.Errorf("%d packets counted, want 1", got)
			}
			if got := after.Bytes - before.Bytes; got != uint64(len(test.frame)) {
				t.Errorf("%d bytes counted, want %d", got, len(test.frame))
			}
		})
	}
	for _, frame := range capture.Stop() {
		for _, test := range tests {
			if string(frame.Data) == string(test.frame) {
				t.Errorf("a frame that is %s arrived", test.reason)
			}
		}
	}
}

// While the programs move from filters to links, every packet is counted once and
// no spoofed one passes.
func TestNetnsPromotionLosesNothing(t *testing.T) {
	b := newBench(t)
	b.losesNothing(t, func() {
		for _, when := range []string{"first", "again"} {
			if err := b.loader.Promote(b.place(), b.guard); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	})
	b.checkOneHook(t)
}

// losesNothing has the pod send as fast as it can, every other frame with a source that
// is not its own, while the guard is changed: not one of those passes, and every frame
// is counted once.
func (b *bench) losesNothing(t *testing.T, change func()) {
	t.Helper()
	refused := b.count(t, bpf.Egress, "spoofed_ipv4").Packets
	passed, counted := b.sent(t)
	unguarded := passed - counted // before the programs were there
	capture := b.outside.Capture("eth0")
	frame := spoofed(t, b)
	own := append([]byte(nil), frame...)
	copy(own[26:30], net.ParseIP(podAddress).To4())
	ctx, cancel := context.WithCancel(t.Context())
	var sent uint64
	var flood sync.WaitGroup
	flood.Go(func() { sent = b.pod.Flood(ctx, "net1", own, frame) })
	time.Sleep(20 * time.Millisecond)
	change()
	time.Sleep(20 * time.Millisecond)
	cancel()
	flood.Wait()
	for _, f := range capture.Stop() {
		if string(f.Data) == string(frame) {
			t.Fatal("a spoofed frame arrived")
		}
	}
	passed, counted = b.sent(t)
	passed -= unguarded
	t.Logf("%d frames of each kind sent meanwhile, %d passed", sent, passed)
	if counted != passed || counted < sent {
		t.Errorf("%d packets counted, %d passed, %d sent", counted, passed, sent)
	}
	if got := b.count(t, bpf.Egress, "spoofed_ipv4").Packets - refused; got != sent {
		t.Errorf("%d spoofed packets counted, %d sent", got, sent)
	}
}

// sent is how many packets the guard has passed, as the interface and the guard
// count them. The interface has sent them, or dropped them for want of room. Both
// are read at one moment: the kernel's own discoveries come at any time.
func (b *bench) sent(t *testing.T) (passed, counted uint64) {
	t.Helper()
	for {
		counted = b.count(t, bpf.Egress, "allowed").Packets
		stats := b.pod.Link("net1").Attrs().Statistics
		if counted == b.count(t, bpf.Egress, "allowed").Packets {
			return stats.TxPackets + stats.TxDropped, counted
		}
	}
}

// checkOneHook makes sure that the programs are on the interface in one way only.
func (b *bench) checkOneHook(t *testing.T) {
	t.Helper()
	if err := b.guard.Check(b.place()); err != nil {
		t.Error(err)
	}
	hook := HookOf(b.guard.Dir())
	for _, s := range b.guard.sides(b.place()) {
		if s.hasFilter(b.ns, b.pod.Link("net1").Attrs().Index) != (hook == Clsact) {
			t.Errorf("hook %s, a filter %s: %t", hook, s.name, hook != Clsact)
		}
	}
}

func TestNetnsIngressLetsThePodsOwnFiltersRun(t *testing.T) {
	b := newBench(t)
	if err := b.loader.Promote(b.place(), b.guard); err != nil {
		t.Fatal(err)
	}
	var control bpf.Control
	if err := b.guard.control.Lookup(uint32(0), &control); err != nil {
		t.Fatal(err)
	}
	if control.IngressAction != actUnspec {
		t.Errorf("ingress returns %d after promotion, want %d", control.IngressAction, actUnspec)
	}
	b.ping(t)
}

// A guard goes on without the process that made it, and another takes it over.
func TestNetnsGuardOutlivesItsProcess(t *testing.T) {
	for _, promoted := range []bool{false, true} {
		t.Run(fmt.Sprintf("promoted=%v", promoted), func(t *testing.T) {
			b := newBench(t)
			if promoted {
				if err := b.loader.Promote(b.place(), b.guard); err != nil {
					t.Fatal(err)
				}
			}
			b.ping(t)
			if err := b.guard.Close(); err != nil {
				t.Fatal(err)
			}
			b.ping(t)
			b.pod.Send("net1", spoofed(t, b))
			counters, err := ReadCounters(b.spec.Dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := counters.Of(bpf.Ingress, bpf.Allowed).Packets; got < 6 {
				t.Errorf("%d packets counted in, want 6 or more", got)
			}
			if b.guard, err = Open(b.spec.Dir); err != nil {
				t.Fatal(err)
			}
			if got := b.count(t, bpf.Egress, "spoofed_ipv4").Packets; got != 1 {
				t.Errorf("%d spoofed packets counted, want 1", got)
			}
			if err := b.guard.Check(b.place()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNetnsSetAddressesTakesEffectAtOnce(t *testing.T) {
	b := newBench(t)
	frame := spoofed(t, b)
	for round := range 6 {
		b.pod.Send("net1", frame)
		if got := b.count(t, bpf.Egress, "spoofed_ipv4").Packets; got != uint64(round+1) {
			t.Fatalf("round %d: %d refused", round, got)
		}
		with := b.spec.Addresses
		with.Prefixes = append(with.Prefixes[:len(with.Prefixes):len(with.Prefixes)], netip.MustParsePrefix("192.0.2.66/32"))
		if err := b.guard.SetAddresses(with); err != nil {
			t.Fatal(err)
		}
		b.pod.Send("net1", frame)
		if got := b.count(t, bpf.Egress, "spoofed_ipv4").Packets; got != uint64(round+1) {
			t.Fatalf("round %d: an address that is allowed was refused", round)
		}
		if err := b.guard.SetAddresses(b.spec.Addresses); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNetnsCheckFindsWhatIsMissing(t *testing.T) {
	b := newBench(t)
	if err := b.pod.Netlink().QdiscDel(clsactOn(b.pod.Link("net1").Attrs().Index)); err != nil {
		t.Fatal(err)
	}
	if err := b.guard.Check(b.place()); !errors.Is(err, ErrDetached) {
		t.Errorf("error %v, want %v", err, ErrDetached)
	}
}

func TestNetnsDetachLeavesTheInterfaceAsItWas(t *testing.T) {
	for _, promoted := range []bool{false, true} {
		t.Run(fmt.Sprintf("promoted=%v", promoted), func(t *testing.T) {
			b := newBench(t)
			if promoted {
				if err := b.loader.Promote(b.place(), b.guard); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := b.guard.Detach(b.place()); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(b.guard.Close(), Remove(b.spec.Dir), Remove(b.spec.Dir)); err != nil {
				t.Fatal(err)
			}
			for _, q := range mustList(t, b) {
				if q.Type() == "clsact" {
					t.Error("the clsact qdisc is still there")
				}
			}
			if _, err := os.Stat(b.spec.Dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the pins are still there: %v", err)
			}
			b.pod.Send("net1", spoofed(t, b))
			b.ping(t)
		})
	}
}

func mustList(t *testing.T, b *bench) []netlink.Qdisc {
	t.Helper()
	qdiscs, err := b.pod.Netlink().QdiscList(b.pod.Link("net1"))
	if err != nil {
		t.Fatal(err)
	}
	return qdiscs
}

func TestNetnsAttachFailsWhole(t *testing.T) {
	b := newBench(t)
	many := b.spec.Addresses
	for i := range bpf.PrefixesMax + 1 {
		many.Prefixes = append(many.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32))
	}
	tests := []struct {
		name   string
		change func(*Spec)
		want   error
	}{
		{"no such interface", func(s *Spec) { s.Interface = "net9" }, nil},
		{"too many addresses", func(s *Spec) { s.Addresses = many }, ErrTooManyAddresses},
		{"not an Ethernet address", func(s *Spec) { s.MAC = make(net.HardwareAddr, 20) }, nil},
		{"no room for pins", func(s *Spec) { s.Dir = filepath.Join(s.Dir, "nowhere") }, fs.ErrNotExist},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := b.spec
			spec.Dir = pinDir(t, "other")
			test.change(&spec)
			guard, err := b.loader.Load(spec)
			if err != nil {
				t.Fatal(err)
			}
			if err = b.loader.Attach(Place{Namespace: b.ns, Interface: spec.Interface}, guard, spec); err == nil {
				t.Fatal("no error")
			}
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if left, _ := os.ReadDir(spec.Dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestNetnsReserveGivesEachGuardItsOwn(t *testing.T) {
	root := filepath.Dir(pinDir(t, "first"))
	dir, err := Reserve(root, "first", "longer")
	if err != nil || filepath.Base(dir) != "longer" {
		t.Fatalf("%s, %v: want the second name", dir, err)
	}
	again, err := Reserve(root, "first", "longer")
	if err != nil || again != dir {
		t.Errorf("%s, %v: want the second name anew", again, err)
	}
}

// bpffs is mounted where it is missing, once.
func TestNetnsEnsureFilesystemMounts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pins")
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		if err := EnsureFilesystem(dir); err != nil {
			t.Fatal(err)
		}
	}
	if !isBPFFS(dir) {
		t.Errorf("%s is not bpffs", dir)
	}
}
