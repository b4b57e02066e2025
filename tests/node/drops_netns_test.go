// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/tests/lan"
)

// drops are what weirctl shows of a pod's.
func (n *Node) drops(p *Pod, args ...string) (all []api.DroppedPacket, stderr string) {
	n.tb.Helper()
	code, out, stderr := n.weirctl("drops", append([]string{"--pod", n.namespace + "/" + p.Name, "-o", "json"}, args...)...)
	if code != 0 {
		n.tb.Fatalf("exit code %d: %s", code, stderr)
	}
	lines := json.NewDecoder(strings.NewReader(out))
	for {
		var d api.DroppedPacket
		if err := lines.Decode(&d); err == io.EOF {
			return all, stderr
		} else if err != nil {
			n.tb.Fatal(err)
		}
		all = append(all, d)
	}
}

// awaitDrops waits until weirctl shows so many of a reason, and returns them.
func (n *Node) awaitDrops(p *Pod, reason string, count int) (all []api.DroppedPacket) {
	n.tb.Helper()
	n.await(fmt.Sprintf("%d drops as %s", count, reason), func() bool {
		all, _ = n.drops(p, "--reason", reason)
		return len(all) >= count
	})
	if len(all) > count {
		n.tb.Errorf("%d drops as %s, want %d", len(all), reason, count)
	}
	return all
}

// newDropping is a pod that is guarded with a rule.
func newDropping(t *testing.T) (*Node, *Pod) {
	t.Helper()
	n := newNode(t)
	n.Network("lan", macvlan(object{"capabilities": object{"ips": true}, "ipam": object{"type": "static"}, "weir": object{"rules": []object{
		{"action": "allow", "protocol": "icmp"},
		{"name": "no-dns", "direction": "egress", "action": "deny", "protocol": "udp", "ports": []string{"53"}},
	}}}))
	pod := n.Pod("web", `[{"name":"lan","ips":["`+podAddress+`/24"]}]`)
	n.mustAdd(pod)
	n.awaitHook(pod)
	return n, pod
}

// question is one that the rule no-dns denies.
func question(tb testing.TB, p *Pod) []byte {
	tb.Helper()
	return lan.Frame(tb,
		&layers.Ethernet{SrcMAC: p.Link("net1").Attrs().HardwareAddr, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(podAddress), DstIP: net.ParseIP(outsideAddress)},
		&layers.UDP{SrcPort: 4242, DstPort: 53}, gopacket.Payload(make([]byte, 200)))
}

// What a pod is refused is shown with the pod, the interface, the reason, the rule and the
// packet, as it comes and later.
func TestNetnsDropsAreShown(t *testing.T) {
	n, pod := newDropping(t)
	coming := n.followDrops(t, pod)
	mac := pod.Link("net1").Attrs().HardwareAddr
	began := time.Now()
	for _, s := range spoofsOf(t, mac) {
		pod.Send("net1", s.frame)
	}
	asked := question(t, pod)
	pod.Send("net1", asked)
	want := map[string]string{
		"spoofed_mac":     podAddress + ".1234 > " + outsideAddress + ".4321 UDP",
		"spoofed_ipv4":    "192.168.122.99.1234 > " + outsideAddress + ".4321 UDP",
		"spoofed_ipv6":    "2001:db8:122::99.1234 > " + outsideAddress6 + ".4321 UDP",
		"spoofed_arp_mac": "ARP who-has " + outsideAddress + " tell " + podAddress + " (02:00:00:00:00:09)",
		"spoofed_arp_ip":  "ARP who-has " + outsideAddress + " tell 192.168.122.99 (" + mac.String() + ")",
		"vlan_tagged":     "vlan 7 " + podAddress + ".1234 > " + outsideAddress + ".4321 UDP",
		"rule_denied":     podAddress + ".4242 > " + outsideAddress + ".53 UDP",
	}
	for reason, description := range want {
		d := n.awaitDrops(pod, reason, 1)[0]
		if d.Description != description || d.Pod.Name != "web" || d.Pod.Namespace != n.namespace || d.Interface != "net1" ||
			d.ContainerID != pod.ID || d.Network != n.namespace+"/lan" || d.Direction != "egress" {
			t.Errorf("%s: %+v", reason, d)
		}
		if d.Time.Before(began.Add(-time.Second)) || d.Time.After(time.Now().Add(time.Second)) {
			t.Errorf("%s: dropped at %s, sent at %s", reason, d.Time, began)
		}
		if rule := map[string]string{"rule_denied": "no-dns"}[reason]; d.Rule != rule {
			t.Errorf("%s: by the rule %q", reason, d.Rule)
		}
	}
	denied := n.awaitDrops(pod, "rule_denied", 1)[0]
	if int(denied.Length) != len(asked) || string(denied.Packet) != string(asked[:128]) {
		t.Errorf("%d bytes, %x", denied.Length, denied.Packet)
	}
	_, table, _ := n.weirctl("drops", "--reason", "rule_denied")
	line := regexp.MustCompile(`Z +` + n.namespace + `/web +net1 +egress +rule_denied +no-dns +` + regexp.QuoteMeta(want["rule_denied"]) + "\n")
	if !line.MatchString(table) {
		t.Errorf("the table is\n%s", table)
	}
	for range want {
		d := coming.next(t)
		if want[d.Reason] != d.Description {
			t.Errorf("as it came: %+v", d)
		}
		delete(want, d.Reason)
	}
	coming.interrupt(t)
	n.mustDel(pod)
	if all, _ := n.drops(pod); len(all) < 7 {
		t.Errorf("after DEL %d are left", len(all))
	}
}

// coming is a weirctl drops -f that runs.
type coming struct {
	cmd   *exec.Cmd
	lines chan string
	ended chan error
}

// followDrops follows the drops of a pod that the tests send, and not its kernel. Those of
// before come first.
func (n *Node) followDrops(t *testing.T, p *Pod) *coming {
	t.Helper()
	c := &coming{
		cmd: exec.Command(n.bin.ctl, "drops", "-f", "--last", "100", "-o", "json", "--socket", n.socket(), "--pod", n.namespace+"/"+p.Name,
			"--reason", "spoofed_mac,spoofed_ipv4,spoofed_ipv6,spoofed_arp_mac,spoofed_arp_ip,vlan_tagged,rule_denied"),
		lines: make(chan string, 1000), ended: make(chan error, 1),
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.machine.Do(c.cmd.Start)
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	go func() {
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			c.lines <- scanner.Text()
		}
		c.ended <- c.cmd.Wait()
	}()
	return c
}

func (c *coming) next(t *testing.T) (d api.DroppedPacket) {
	t.Helper()
	select {
	case line := <-c.lines:
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatal(err)
		}
	case <-time.After(settleFor):
		t.Fatal("no drop came")
	}
	return d
}

// interrupt ends it as a user does: all is well.
func (c *coming) interrupt(t *testing.T) {
	t.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGINT)
	if err := <-c.ended; err != nil {
		t.Errorf("interrupted: %v", err)
	}
}

// packetsDropped is how many packets were dropped, for some reasons or for any.
func packetsDropped(a api.AttachmentStatus, reasons ...string) (sum uint64) {
	for _, d := range a.Dropped {
		if len(reasons) == 0 || slices.Contains(reasons, d.Reason) {
			sum += d.Packets
		}
	}
	return sum
}

// A flood is counted to the packet; of the packets some are shown, and it is told of how
// many nothing but the count is known.
func TestNetnsFloodOfDrops(t *testing.T) {
	n, pod := newDropping(t)
	spoofed := spoofsOf(t, pod.Link("net1").Attrs().HardwareAddr)[1].frame
	const flood = 2000
	began := time.Now()
	pod.Send("net1", slices.Repeat([][]byte{spoofed}, flood)...)
	took := time.Since(began)
	var a api.AttachmentStatus
	var dropped, spoofs uint64
	// The two are read one after the other, and the pod's kernel may send meanwhile.
	n.await("each drop to be sampled or lost", func() bool {
		a = n.Attachment(pod, "net1")
		dropped, spoofs = packetsDropped(a), packetsDropped(a, "spoofed_ipv4")
		return a.Samples.Sampled+a.Samples.Lost() == dropped
	})
	if spoofs != flood {
		t.Errorf("%d drops are counted, want %d", spoofs, flood)
	}
	// What may be reported at once, and in the time that it took.
	most := 100 + uint64(took/(10*time.Millisecond)) + 5 + (dropped - spoofs)
	if a.Samples.Sampled == 0 || a.Samples.Sampled > most || a.Samples.Limited == 0 {
		t.Errorf("%+v, want at most %d", a.Samples, most)
	}
	const kept = 64
	all, stderr := n.drops(pod)
	if len(all) != kept || !strings.Contains(stderr, fmt.Sprintf("%s/web/net1: %d drops were counted only", n.namespace, a.Samples.Lost())) {
		t.Errorf("%d drops are shown: %s", len(all), stderr)
	}
	if lost := n.numbersOf(t, n.scrape(), pod, "net1")["weir_attachment_drops_lost_totallimited"]; lost != a.Samples.Limited {
		t.Errorf("the metric says that %d are lost, want %d", lost, a.Samples.Limited)
	}
}

// An agent that is killed leaves its ring, to which guards go on reporting; the next one
// reads it, and its own beside it.
func TestNetnsDropsOutliveTheAgent(t *testing.T) {
	n, pod := newDropping(t)
	spoofed := spoofsOf(t, pod.Link("net1").Attrs().HardwareAddr)[0].frame
	pod.Send("net1", spoofed)
	n.awaitDrops(pod, "spoofed_mac", 1)
	coming := n.followDrops(t, pod)
	coming.next(t)
	n.Kill()
	pod.Send("net1", spoofed, question(t, pod))
	if code, _, stderr := n.weirctl("drops"); code != 1 || !strings.Contains(stderr, "drops are known to the agent alone") {
		t.Errorf("without an agent: exit code %d: %s", code, stderr)
	}
	n.Start()
	for _, reason := range []string{"spoofed_mac", "rule_denied"} {
		if d := coming.next(t); d.Reason != reason {
			t.Errorf("whoever follows is shown %+v, want a drop as %s", d, reason)
		}
	}
	coming.interrupt(t)
	if d := n.awaitDrops(pod, "rule_denied", 1)[0]; d.Rule != "no-dns" || d.Pod.Name != "web" {
		t.Errorf("%+v", d)
	}
	n.awaitDrops(pod, "spoofed_mac", 1) // what the agent before has read is gone with it
	pod.Send("net1", spoofed)
	n.awaitDrops(pod, "spoofed_mac", 2)
	second := n.Pod("second", `[{"name":"lan","ips":["`+apiAddress+`/24"]}]`)
	n.mustAdd(second)
	second.Send("net1", spoofed)
	n.awaitDrops(second, "spoofed_mac", 1)
	n.awaitDrops(pod, "spoofed_mac", 2)
	n.mustDel(pod)
	second.Send("net1", spoofed)
	n.awaitDrops(second, "spoofed_mac", 2)
}

// The packets that weirctl writes are read by tcpdump, each with its tag.
func TestShellsTcpdumpReadsDrops(t *testing.T) {
	n, pod := newDropping(t)
	for _, s := range spoofsOf(t, pod.Link("net1").Attrs().HardwareAddr) {
		pod.Send("net1", s.frame)
		n.awaitDrops(pod, s.reason, 1)
	}
	file := n.path("drops.pcap")
	if code, out, stderr := n.weirctl("drops", "--pod", n.namespace+"/web", "--write", file); code != 0 || out != "" {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	checkTcpdump(t, exec.Command("tcpdump", "-enr", file))
	weirctl := strings.Join([]string{n.bin.ctl, "drops", "--socket", n.socket(), "--pod", n.namespace + "/web", "-o", "pcap"}, " ")
	checkTcpdump(t, exec.Command("sh", "-c", weirctl+" | tcpdump -enr -"))

	screen := newTerminal(t, 100, 30)
	cmd := screen.show(n, "drops", "-o", "pcap")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("to a terminal: %v", err)
	}
	n.await("the terminal to be refused", func() bool { return strings.Contains(string(screen.written()), "nothing for a terminal") })
}

func checkTcpdump(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, says := range []string{
		"02:00:00:00:00:09 > ff:ff:ff:ff:ff:ff", "vlan 7, p 0, ethertype IPv4",
		"192.168.122.99.1234 > " + outsideAddress + ".4321: UDP", "Request who-has " + outsideAddress + " tell 192.168.122.99",
	} {
		if !strings.Contains(string(out), says) {
			t.Errorf("%v does not say %q:\n%s", cmd.Args, says, out)
		}
	}
}
