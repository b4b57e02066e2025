// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"context"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/tests/browser"
	"github.com/weir-cni/weir/tests/lan"
)

// newcomer is a node whose pod web gets no answers, since a rule denies its questions, and
// whose pod backup sends most.
type newcomer struct {
	*Node
	web, backup *Pod
}

const shopNamespace = "shop"

func newNewcomer(t *testing.T) *newcomer {
	t.Helper()
	n := newNode(t)
	if *pictures != "" {
		n.namespace = shopNamespace
	}
	n.Network("lan", macvlan(object{"ipam": n.hostLocal(podAddress[:strings.LastIndex(podAddress, ".")] + ".0/24"), "weir": object{"rules": []object{
		{"name": "no-dns", "direction": "egress", "action": "deny", "protocol": "udp", "ports": []string{"53"}},
	}}}))
	c := &newcomer{Node: n, web: n.Pod("web", "lan"), backup: n.Pod("backup", "lan")}
	for _, p := range []*Pod{n.Pod("db", "lan"), c.web, c.backup} {
		n.mustAdd(p)
		n.awaitHook(p)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.talk(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return c
}

// talk has the pods send until ctx ends.
func (c *newcomer) talk(ctx context.Context) {
	question := c.datagram(c.web, 53, 40)
	much := make([][]byte, 20)
	for i := range much {
		much[i] = c.datagram(c.backup, 873, 1400)
	}
	for ticker := time.NewTicker(10 * time.Millisecond); ctx.Err() == nil; <-ticker.C {
		c.web.Send("net1", question)
		c.backup.Send("net1", much...)
	}
}

// datagram is one to the host outside.
func (c *newcomer) datagram(p *Pod, port layers.UDPPort, length int) []byte {
	from, _, err := net.ParseCIDR(c.Attachment(p, "net1").Addresses[0].String())
	if err != nil {
		c.tb.Error(err)
	}
	return lan.Frame(c.tb,
		&layers.Ethernet{SrcMAC: macOf(p), DstMAC: c.outside.Link("eth1").Attrs().HardwareAddr, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from, DstIP: net.ParseIP(outsideAddress)},
		&layers.UDP{SrcPort: 40000, DstPort: port}, gopacket.Payload(make([]byte, length)))
}

// finds are what the commands of the README's session have to print, in their order, and how
// they end.
func finds() []struct {
	code  int
	lines []string
} {
	return []struct {
		code  int
		lines []string
	}{
		{0, []string{`shop +web +net1 +shop/lan +macvlan .* [\d,]+ rule_denied `, `shop +backup +net1 .* 0 +`}},
		{0, []string{`Z +shop/web +net1 +egress +rule_denied +no-dns +\S+\.40000 > ` + regexp.QuoteMeta(outsideAddress) + `\.53 UDP$`}},
		{4, []string{`Verdict: +dropped, rule_denied`, `no-dns`}},
		{0, []string{`^shop/lan +macvlan +3 +3 `}},
		{0, []string{`^shop/backup +\d`}},
	}
}

// sessionBlock is the session in the README.
var sessionBlock = regexp.MustCompile("(?ms)^```console\n(.*?)^```$")

// The session in the README finds out why packets of a pod are dropped and which pod uses
// most of a network, command by command.
func TestNodesNewcomer(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	c := newNewcomer(t)
	time.Sleep(2 * time.Second)
	var commands []string
	for line := range strings.Lines(sessionBlock.FindStringSubmatch(string(text))[1]) {
		if command, is := strings.CutPrefix(line, "$ weirctl "); is {
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	if len(commands) != len(finds()) {
		t.Fatalf("the session has %d commands, and %d are known", len(commands), len(finds()))
	}
	var session strings.Builder
	for i, want := range finds() {
		args := strings.Fields(strings.ReplaceAll(commands[i], shopNamespace, c.namespace))
		code, out, stderr := c.weirctl(args[0], args[1:]...)
		fmt.Fprintf(&session, "$ weirctl %s\n%s%s", commands[i], out, stderr)
		if code != want.code {
			t.Errorf("weirctl %s: exit code %d, want %d", commands[i], code, want.code)
		}
		for _, line := range want.lines {
			if !regexp.MustCompile("(?m)" + strings.ReplaceAll(line, shopNamespace, c.namespace)).MatchString(out) {
				t.Errorf("weirctl %s prints no %s, but\n%s%s", commands[i], line, out, stderr)
			}
		}
	}
	if *pictures != "" {
		mustDo(t, os.WriteFile(filepath.Join(*pictures, "session.txt"), []byte(session.String()), 0o600))
		c.drawTop(t)
	}
}

// drawTop takes a picture of top on a terminal.
func (c *newcomer) drawTop(t *testing.T) {
	t.Helper()
	term := newTerminal(t, 80, 8)
	cmd := term.show(c.Node, "top", "-d", "1s")
	defer func() {
		term.press("q")
		mustDo(t, cmd.Wait())
	}()
	c.await("keys", func() bool { return contains(term.lines(), "sorted by rx") })
	term.press("t")
	c.await("rates", func() bool {
		return contains(term.lines(), "sorted by tx") && contains(term.lines(), shopNamespace+"/backup")
	})
	screens := strings.Split(string(term.written()), "\x1b[H")
	screen := strings.NewReplacer("\x1b[K", "", "\x1b[J", "", "\x1b[1m", "<b>", "\x1b[31m", `<b style="color:#ff6b60">`,
		"\x1b[33m", `<b style="color:#e5c07b">`, "\x1b[0m", "</b>").Replace(html.EscapeString(screens[len(screens)-2]))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `<!doctype html><meta charset="utf-8"><body style="background:#16191d;margin:16px"><pre style="color:#d7dae0;font:15px/1.35 monospace">%s</pre>`, screen)
	}))
	defer server.Close()
	browser.Open(t, server.URL, browser.Device{Width: 780, Height: 200}).Picture(*pictures, "top.png")
}
