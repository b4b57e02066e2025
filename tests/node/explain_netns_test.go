// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"encoding/json"
	"strings"
	"testing"
)

// explained is what weirctl says of a packet.
type explained struct {
	Attachment, Direction, Packet, Reason, Because, Leave string
	Allowed                                               bool
	Rule                                                  struct {
		Rule, Action string
		Text         map[string]any
	}
	Program struct {
		ID  int
		Tag string
	}
}

// explain asks about a packet, and proves that the exit code says what the answer does.
func (n *Node) explain(t *testing.T, p *Pod, args ...string) explained {
	t.Helper()
	args = append([]string{n.namespace + "/" + p.Name, "--interface", "net1", "-o", "json"}, args...)
	code, out, stderr := n.weirctl("explain", args...)
	var list struct{ Items []explained }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Items) != 1 {
		t.Fatalf("%q: exit code %d, %v: %s%s", args, code, err, out, stderr)
	}
	want := 4
	if list.Items[0].Allowed {
		want = 0
	}
	if code != want {
		t.Errorf("%q: exit code %d, want %d: %s%s", args, code, want, out, stderr)
	}
	return list.Items[0]
}

// asked is a packet, the verdict on it and the rule that decides; empty for none.
type asked struct {
	about          []string
	verdict, rule  string
	direction, why string
}

func (n *Node) checkExplained(t *testing.T, p *Pod, all []asked) {
	t.Helper()
	for _, a := range all {
		got := n.explain(t, p, a.about...)
		if got.Reason != a.verdict || got.Rule.Rule != a.rule || got.Direction != a.direction {
			t.Errorf("%q: %s by rule %q, %s; want %s by %q, %s", a.about, got.Reason, got.Rule.Rule, got.Direction, a.verdict, a.rule, a.direction)
		}
		if !strings.Contains(got.Because, a.why) || got.Program.ID == 0 || got.Program.Tag == "" {
			t.Errorf("%q: %+v", a.about, got)
		}
		if (a.rule != "") != (len(got.Rule.Text) > 0) {
			t.Errorf("%q: the text of the rule is %v", a.about, got.Rule.Text)
		}
	}
}

// notCounted proves that nothing of an attachment is counted meanwhile but what its kernel
// sends by itself.
func (n *Node) notCounted(t *testing.T, p *Pod, do func()) {
	t.Helper()
	for range 20 {
		before := toJSON(t, n.Attachment(p, "net1"))
		do()
		if toJSON(t, n.Attachment(p, "net1")) == before {
			return
		}
	}
	t.Error("explaining is counted, or packets never cease")
}

// The programs themselves say which rule or check decides, with an agent and without, and
// count nothing.
func TestNetnsExplain(t *testing.T) {
	n := newNode(t)
	r := newRuled(t, n)
	other := "192.168.122.99"
	all := []asked{
		{[]string{"--to", outsideAddress, "--tcp", "5432"}, "allowed", "db", "egress", "allows it"},
		{[]string{"--to", outsideAddress6, "--tcp", "5432"}, "allowed", "db", "egress", "allows it"},
		{[]string{"--to", other, "--tcp", "5432"}, "rule_denied", theRest, "egress", "denies it"},
		{[]string{"--to", outsideAddress, "--udp", "53"}, "allowed", "dns", "egress", ""},
		{[]string{"--to", outsideAddress, "--icmp"}, "allowed", "ping", "egress", ""},
		{[]string{"--from", outsideAddress6, "--icmp"}, "allowed", "ping", "ingress", ""},
		{[]string{"--from", outsideAddress, "--tcp", "80"}, "rule_denied", "services", "ingress", ""},
		{[]string{"--from", outsideAddress, "--tcp", "8080"}, "allowed", "", "ingress", "no rule of the network is about it"},
		{[]string{"--from", outsideAddress, "--to", podAddress, "--udp", "7050"}, "rule_denied", "quiet", "ingress", ""},
		{[]string{"--from", other, "--to", outsideAddress, "--direction", "egress", "--udp", "53"}, "spoofed_ipv4", "", "egress", "IPv4"},
		{[]string{"--from", "2001:db8:122::99", "--to", outsideAddress6, "--direction", "egress", "--udp", "53"}, "spoofed_ipv6", "", "egress", "IPv6"},
		{[]string{"--from", other, "--to", outsideAddress, "--direction", "egress", "--arp"}, "spoofed_arp_ip", "", "egress", "ARP"},
		{[]string{"--to", outsideAddress, "--arp"}, "allowed", "", "egress", ""},
		{[]string{"--to", outsideAddress6, "--arp"}, "allowed", "", "egress", ""},
		{[]string{"--to", outsideAddress, "--icmp", "--from-mac", "02:00:00:00:00:09"}, "spoofed_mac", "", "egress", "MAC"},
		{[]string{"--from", outsideAddress, "--tcp", "8080", "--to-mac", "02:00:00:00:00:09"}, "foreign_destination", "", "ingress", "MAC"},
		{[]string{"--to", "255.255.255.255", "--udp", "68", "--source-port", "67"}, "rogue_dhcp", "", "egress", "DHCP"},
	}
	ask := func() { n.checkExplained(t, r.pod, all) }
	n.notCounted(t, r.pod, ask)
	if got := n.explain(t, r.pod, "--to", outsideAddress, "--udp", "53").Rule.Text; got["protocol"] != "udp" || len(got) != 5 {
		t.Errorf("the text of the rule is %v", got)
	}
	code, out, _ := n.weirctl("explain", r.pod.Name, "--to", other, "--tcp", "5432")
	for _, want := range []string{"net1 on " + n.namespace + "/lan\n", "dropped, rule_denied", theRest + ` {"direction":"egress","action":"deny"}`, "nothing was counted"} {
		if code != 4 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, no %q in\n%s", code, want, out)
		}
	}
	// What was said is what happens.
	r.tells(t, r.pod.Host, n.outside, outsideAddress, "53", true)
	r.tells(t, n.outside, r.pod.Host, podAddress, "7050", false)

	n.Kill()
	n.notCounted(t, r.pod, ask)
}

// Isolation is explained, by address and by MAC, and so is a guard on the node's end of a
// cable.
func TestNetnsExplainIsolation(t *testing.T) {
	n := newNode(t)
	n.segmented(object{"type": "bridge", "bridge": "br1"})
	alone, red := n.segmentPod("isolated", 8), n.segmentPod("red", 9)
	gate := n.segmentPod("promiscuous", 10)
	ask := func() {
		n.checkExplained(t, alone.Pod, []asked{
			{[]string{"--to", red.addrs[0], "--icmp"}, "isolated", "", "egress", "isolation"},
			{[]string{"--to", red.addrs[1], "--arp"}, "isolated", "", "egress", ""},
			{[]string{"--from", red.addrs[1], "--tcp", "80"}, "isolated", "", "ingress", ""},
			{[]string{"--to", gate.addrs[0], "--tcp", "80"}, "allowed", "", "egress", ""},
			{[]string{"--to", outsideAddress, "--tcp", "80", "--to-mac", red.Link("net1").Attrs().HardwareAddr.String()}, "isolated", "", "egress", ""},
		})
	}
	n.notCounted(t, alone.Pod, ask)
	n.Kill()
	n.notCounted(t, alone.Pod, ask)
	if code, _, stderr := n.weirctl("explain", alone.Name, "--to", outsideAddress, "--icmp", "--interface", "net9"); code != 1 || !strings.Contains(stderr, "net9") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	if code, out, stderr := n.weirctl("explain", "nobody", "--to", outsideAddress, "--icmp"); code != 1 || out != "" || !strings.Contains(stderr, "no pod") {
		t.Errorf("exit code %d, %s%s", code, out, stderr)
	}
}
