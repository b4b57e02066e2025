// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/hex"
	"strings"
	"testing"
	"unicode"
)

const (
	macs = "ffffffffffff" + "020000000001"
	ipv4 = macs + "0800" + "4500003c000040004006" + "0000" + "0a000005" + "0a000001"
	ipv6 = macs + "86dd" + "6000000000"
	from = "fe800000000000000000000000000001"
	all  = "ff020000000000000000000000000001"
	udp  = "10920035001c0000"
)

func TestDescribe(t *testing.T) {
	t.Parallel()
	// An IPv4 packet of another protocol.
	of := func(protocol string) string { return strings.Replace(ipv4, "4000"+"4006", "4000"+"40"+protocol, 1) }
	tests := []struct{ name, frame, want string }{
		{"nothing", "", "0 bytes of an Ethernet header"},
		{"half a header", "ffffffff", "4 bytes of an Ethernet header"},
		{"header alone", macs + "0800", "IPv4, unreadable"},
		{"UDP", of("11") + udp, "10.0.0.5.4242 > 10.0.0.1.53 UDP"},
		{"UDP without ports", of("11") + "1092", "10.0.0.5 > 10.0.0.1 UDP"},
		{"SYN", ipv4 + "109200500000000000000000500200000000" + "0000", "10.0.0.5.4242 > 10.0.0.1.80 TCP SYN"},
		{"SYN and ACK", ipv4 + "109200500000000000000000501200000000" + "0000", "10.0.0.5.4242 > 10.0.0.1.80 TCP SYN,ACK"},
		{"TCP without flags", ipv4 + "109200500000000000000000500000000000" + "0000", "10.0.0.5.4242 > 10.0.0.1.80 TCP"},
		{"TCP that is cut off", ipv4 + "10920050", "10.0.0.5.4242 > 10.0.0.1.80 TCP"},
		{"SCTP", of("84") + "109200500000000000000000", "10.0.0.5.4242 > 10.0.0.1.80 SCTP"},
		{"echo", of("01") + "0800000000010001", "10.0.0.5 > 10.0.0.1 ICMP EchoRequest"},
		{"OSPF, too short", of("59"), "10.0.0.5 > 10.0.0.1 OSPF"},
		{"a protocol without a name", of("fd") + "0000", "10.0.0.5 > 10.0.0.1 protocol 253"},
		{"later fragment", strings.Replace(of("11"), "4000", "0002", 1) + udp, "10.0.0.5 > 10.0.0.1 UDP later fragment"},
		{"first fragment", strings.Replace(of("11"), "4000", "2000", 1) + udp, "10.0.0.5.4242 > 10.0.0.1.53 UDP"},
		{"IPv4 that says IPv6", macs + "0800" + "65", "IPv4, unreadable"},
		{"ARP request", macs + "0806" + "0001080006040001" + "020000000001" + "0a000005" + "000000000000" + "0a000001", "ARP who-has 10.0.0.1 tell 10.0.0.5 (02:00:00:00:00:01)"},
		{"ARP reply", macs + "0806" + "0001080006040002" + "020000000001" + "0a000005" + "000000000000" + "0a000001", "ARP 10.0.0.5 is-at 02:00:00:00:00:01"},
		{"ARP of another kind", macs + "0806" + "0001080006040009" + "020000000001" + "0a000005" + "000000000000" + "0a000001", "ARP operation 9 from 10.0.0.5 to 10.0.0.1"},
		{"ARP that is cut off", macs + "0806" + "0001", "ARP, unreadable"},
		{"router advertisement", ipv6 + "103aff" + from + all + "86000000400000000000000000000000", "fe80::1 > ff02::1 ICMPv6 RouterAdvertisement"},
		{"neighbour solicitation", ipv6 + "183aff" + from + all + "8700000000000000" + "20010db8000000000000000000000001", "fe80::1 > ff02::1 ICMPv6 NeighborSolicitation who-has 2001:db8::1"},
		{"neighbour advertisement", ipv6 + "183aff" + from + all + "8800000000000000" + "20010db8000000000000000000000001", "fe80::1 > ff02::1 ICMPv6 NeighborAdvertisement of 2001:db8::1"},
		{"UDP of IPv6", ipv6 + "1c11ff" + from + all + udp, "fe80::1.4242 > ff02::1.53 UDP"},
		{"UDP behind options", ipv6 + "2400ff" + from + all + "1100010400000000" + udp, "fe80::1.4242 > ff02::1.53 UDP"},
		{"later fragment of IPv6", ipv6 + "242cff" + from + all + "1100000900000001" + udp, "fe80::1 > ff02::1 UDP later fragment"},
		{"IPv6 that is cut off", ipv6 + "1c11ff" + from, "IPv6, unreadable"},
		{"tag", macs + "81002007" + of("11")[len(macs):] + udp, "vlan 7 10.0.0.5.4242 > 10.0.0.1.53 UDP"},
		{"two tags", macs + "88a80002" + "81002007" + "88cc" + "02", "vlan 2 vlan 7 ethertype 0x88cc"},
		{"tag that is cut off", macs + "810020", "ethertype 0x8100"},
		{"LLDP", macs + "88cc" + "0207", "ethertype 0x88cc"},
		{"spanning tree", macs + "0026" + "424203", "LLC"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			data, err := hex.DecodeString(test.frame)
			if err != nil {
				t.Fatal(err)
			}
			if got := Describe(data); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestWithTag(t *testing.T) {
	t.Parallel()
	data, _ := hex.DecodeString(macs + "88cc0207")
	if got := hex.EncodeToString(WithTag(data, 0x8100, 0x2007)); got != macs+"81002007"+"88cc0207" {
		t.Error(got)
	}
	if got := WithTag(data[:11], 0x8100, 7); len(got) != 11 {
		t.Errorf("%x", got)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	data, _ := hex.DecodeString(macs + "88cc")
	if got := Addresses(data); got != "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff" {
		t.Error(got)
	}
	if got := Addresses(data[:11]); got != "" {
		t.Error(got)
	}
}

// FuzzDescribe looks for frames that are described in more than a line of plain text.
func FuzzDescribe(f *testing.F) {
	for _, text := range []string{"", ipv4 + "10920050", ipv6 + "2400ff" + from + all + "1100010400000000" + udp, macs + "81002007" + "0806" + "0001"} {
		data, err := hex.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		line := Describe(data)
		if line == "" || len(line) > 1024 || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) || r > unicode.MaxASCII }) {
			t.Errorf("%q", line)
		}
		_ = WithTag(data, 0x8100, 1)
		_ = Addresses(data)
	})
}
