// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import (
	"net"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/tests/lan"
)

// sent is a frame of the pod's own to a MAC.
func sent(tb testing.TB, to net.HardwareAddr) []byte {
	tb.Helper()
	link := &layers.Ethernet{SrcMAC: podMAC, DstMAC: to, EthernetType: layers.EthernetTypeIPv4}
	return lan.Frame(tb, link, ipv4("192.0.2.8"), udp, gopacket.Payload(make([]byte, 30)))
}

// A limit lets as many through at once as in a second, and one more; the other kinds of
// frames do not know of it.
func TestNetnsStorms(t *testing.T) {
	const limit = 5
	const packet = uint64(TicksPerSecond) / limit
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	multicast := net.HardwareAddr{0x01, 0x00, 0x5e, 0x01, 0x02, 0x03}
	tests := []struct {
		name   string
		ticks  StormTicks
		to     net.HardwareAddr
		others []net.HardwareAddr
		want   string
	}{
		{"broadcast", StormTicks{Broadcast: packet}, broadcast, []net.HardwareAddr{multicast, otherMAC}, "broadcast_storm"},
		{"multicast", StormTicks{Multicast: packet}, multicast, []net.HardwareAddr{broadcast, otherMAC}, "multicast_storm"},
		{"unknown unicast", StormTicks{Unknown: packet}, otherMAC, []net.HardwareAddr{broadcast, multicast}, "unknown_storm"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := loadWith(t, map[string]any{"weir_storm_ticks": test.ticks}, all, "192.0.2.8/32")
			began := time.Now()
			passed := 0
			for range 50 {
				switch got := l.send(t, sent(t, test.to)); got {
				case "allowed":
					passed++
				case test.want:
				default:
					t.Fatalf("verdict %s", got)
				}
			}
			if least, most := limit, limit+2+int(limit*time.Since(began)/time.Second); passed < least || passed > most {
				t.Errorf("%d of 50 passed, want %d to %d", passed, least, most)
			}
			for _, other := range test.others {
				for range 20 {
					if got := l.send(t, sent(t, other)); got != "allowed" {
						t.Fatalf("to %s: %s", other, got)
					}
				}
			}
		})
	}
}

// Unicast to a host that the pod has heard has no limit.
func TestNetnsStormsKnowWhomThePodHasHeard(t *testing.T) {
	l := loadWith(t, map[string]any{"weir_storm_ticks": StormTicks{Unknown: 3600 * TicksPerSecond}}, all, "192.0.2.8/32")
	frame := sent(t, otherMAC)
	l.send(t, frame)
	if got := l.send(t, frame); got != "unknown_storm" {
		t.Fatalf("to a host that was not heard: %s", got)
	}
	if got := l.receive(t, arriving(t, podMAC)); got != "allowed" {
		t.Fatalf("from it: %s", got)
	}
	for range 20 {
		if got := l.send(t, frame); got != "allowed" {
			t.Fatalf("to a host that was heard: %s", got)
		}
	}
	stranger := net.HardwareAddr{0x02, 0x42, 0xac, 0x11, 0x00, 0x77}
	if got := l.send(t, sent(t, stranger)); got != "unknown_storm" {
		t.Errorf("to another: %s", got)
	}
}
