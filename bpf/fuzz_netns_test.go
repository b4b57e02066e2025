// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

// own is what the pod of the tests may send from, as it is set where nothing else is said.
func own() []string {
	return []string{"192.0.2.8/32", "198.51.100.0/24", "2001:db8::8/128", "fe80::42:acff:fe11:2/128"}
}

// agree fails unless both programs say of a frame what the model says.
func (l *loaded) agree(tb testing.TB, frame []byte) {
	tb.Helper()
	if got, want := l.send(tb, frame), l.model.judge(frame); got != want {
		tb.Fatalf("checks %d, %v: egress says %s, the model %s; a line for testdata/frames.hex: %x",
			l.model.checks, l.model.prefixes, got, want, frame)
	}
	if got, want := l.receive(tb, frame), l.model.judgeArrival(frame); got != want {
		tb.Fatalf("checks %d: ingress says %s, the model %s; a line for testdata/frames.hex: %x", l.model.checks, got, want, frame)
	}
}

// settings are all checks, none, each by itself and all but each.
func settings() []Check {
	out := []Check{all, 0}
	for bit := Check(1); bit <= all; bit <<= 1 {
		out = append(out, bit, all&^bit)
	}
	return out
}

// TestNetnsModelOnTheCorpus comes before the random ones: frames that are kept, and what
// the others begin with, cut at every byte.
func TestNetnsModelOnTheCorpus(t *testing.T) {
	frames := corpus(t)
	for _, seed := range seedFrames(t) {
		for length := shortest(seed); length <= len(seed); length++ {
			frames = append(frames, seed[:length])
		}
	}
	wanted := settings()
	if isEmulated() {
		wanted = wanted[:2]
	}
	for _, checks := range wanted {
		l := load(t, checks, own()...)
		for _, frame := range frames {
			l.agree(t, frame)
		}
	}
}

// isEmulated tells a VM of tests/kernels, where a second is a minute.
func isEmulated() bool {
	_, err := exec.LookPath("go")
	return err != nil
}

// corpus is the frames that are kept in testdata, in hex, a line for each.
func corpus(tb testing.TB) (frames [][]byte) {
	tb.Helper()
	f, err := os.Open("testdata/frames.hex")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		frame, err := hex.DecodeString(lines.Text())
		if err != nil || len(frame) < shortest(frame) {
			tb.Fatalf("%s: %v, or too short", lines.Text(), err)
		}
		frames = append(frames, frame)
	}
	if len(frames) == 0 {
		tb.Fatal("testdata/frames.hex has no frames")
	}
	return frames
}

// WEIR_FUZZ is for how long TestNetnsModelOnRandomFrames goes on, such as 3h.
const fuzzVariable = "WEIR_FUZZ"

// The programs and the model agree on frames that are made up, under checks and prefixes
// that are too.
func TestNetnsModelOnRandomFrames(t *testing.T) {
	const perSetting = 5_000
	wanted, until := 1_000_000, time.Time{}
	if isEmulated() {
		wanted = 10_000
	}
	if text := os.Getenv(fuzzVariable); text != "" {
		span, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("%s: %v", fuzzVariable, err)
		}
		until = time.Now().Add(span)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	kept := append(seedFrames(t), corpus(t)...)
	done, verdicts := 0, map[string]int{}
	for done < wanted || time.Now().Before(until) {
		t.Run("", func(t *testing.T) { // so that its programs go
			l := g.load(t)
			for range perSetting {
				frame := g.frame(kept)
				l.agree(t, frame)
				verdicts[l.model.judge(frame)]++
			}
		})
		if t.Failed() {
			return
		}
		done += perSetting
	}
	t.Logf("%d frames: %v", done, verdicts)
	if isEmulated() {
		return // two settings are too few for each verdict to occur
	}
	for v := range Verdicts() {
		if reason := v.Reason(); !isOfTime(reason) && !isElsewhere(reason) && verdicts[reason] == 0 {
			t.Errorf("not one of %d frames is %s", done, reason)
		}
	}
}

// isElsewhere tells verdicts that are not of egress, or of rules, which have a test of their
// own that makes them up.
func isElsewhere(reason string) bool {
	return reason == "foreign_destination" || reason == "rule_denied" || reason == "bypassed"
}

// isOfTime tells verdicts that a frame by itself does not get.
func isOfTime(reason string) bool {
	return strings.HasSuffix(reason, "_storm") || reason == "rate_limited"
}

// generator makes frames of every protocol that the programs know, right ones mostly, so
// that they get far.
type generator struct{ *rand.Rand }

func one[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

func (g generator) rarely() bool { return g.IntN(16) == 0 }

func (g generator) bytes(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(g.Uint32())
	}
	return out
}

// load loads programs of a pod with checks, prefixes and a place in its network, and, where
// it may not talk to all, with another member there.
func (g generator) load(tb testing.TB) *loaded {
	isolated, reds, blues := membership{role: "isolated"}, membership{role: "community", community: red}, membership{role: "community", community: blue}
	own := one(g, membership{}, isolated, reds)
	l := loadPlaced(tb, own, g.checks(), g.prefixes()...)
	if own.role == "" {
		return l
	}
	names := []string{net.HardwareAddr(g.mac()).String()}
	for _, address := range [][]byte{g.source4(), g.source4(), g.source6(), g.source6()} {
		if addr, ok := netip.AddrFromSlice(address); ok {
			names = append(names, addr.String())
		}
	}
	l.meet(tb, one(g, isolated, reds, blues), names...)
	return l
}

func (g generator) checks() Check {
	return one(g, all, all, all&^(1<<g.IntN(13)), Check(g.Uint32())&all)
}

func (g generator) prefixes() []string {
	if g.IntN(2) == 0 {
		return own()
	}
	var out []string
	for range g.IntN(17) {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte(g.source4())), g.IntN(33)).Masked().String())
	}
	for range g.IntN(17) {
		out = append(out, netip.PrefixFrom(netip.AddrFrom16([16]byte(g.source6())), g.IntN(129)).Masked().String())
	}
	return out
}

// frame is a new one or one that is kept, as it is or changed.
func (g generator) frame(kept [][]byte) []byte {
	frame := kept[g.IntN(len(kept))]
	if g.IntN(8) > 0 {
		frame = g.ethernet()
	}
	if g.IntN(2) == 0 {
		frame = mutate(g.Rand, frame)
	}
	return append(frame[:len(frame):len(frame)], make([]byte, max(0, shortest(frame)-len(frame)))...)
}

func (g generator) mac() []byte {
	if g.rarely() {
		return one(g, otherMAC, g.bytes(6))
	}
	return podMAC
}

func (g generator) ethernet() []byte {
	out := one(g, otherMAC, podMAC, layers.EthernetBroadcast, []byte{0x33, 0x33, 0, 0, 0, 1}, g.bytes(6))
	out = append(append([]byte(nil), out...), g.mac()...)
	for g.rarely() {
		out = binary.BigEndian.AppendUint16(out, one[uint16](g, 0x8100, 0x8100, 0x88a8, 0x9100))
		out = append(out, g.bytes(2)...)
	}
	switch g.IntN(10) {
	case 0:
		out = binary.BigEndian.AppendUint16(out, one(g, 0x88cc, 0x8847, 0x8863, 0x0040, 0x88f7, uint16(g.Uint32())))
		return append(out, g.bytes(g.IntN(60))...)
	case 1:
		return append(append(out, 8, 6), g.arp()...)
	case 2, 3, 4:
		return append(append(out, 8, 0), g.ipv4()...)
	}
	return append(append(out, 0x86, 0xdd), g.ipv6()...)
}

func (g generator) source4() []byte {
	return one(g, []byte{192, 0, 2, 8}, []byte{192, 0, 2, 8}, []byte{198, 51, 100, byte(g.Uint32())}, []byte{0, 0, 0, 0}, []byte{192, 0, 2, 9}, g.bytes(4))
}

func (g generator) source6() []byte {
	own, other := netip.MustParseAddr("2001:db8::8").As16(), netip.MustParseAddr("2001:db8::9").As16()
	local := netip.MustParseAddr("fe80::42:acff:fe11:2").As16()
	return one(g, own[:], own[:], local[:], make([]byte, 16), other[:], g.bytes(16))
}

func (g generator) arp() []byte {
	out := append([]byte{0, 1, 8, 0, 6, 4, 0}, one[byte](g, 1, 1, 2, 3))
	out = append(append(out, g.mac()...), g.source4()...)
	out = append(append(out, g.bytes(6)...), g.source4()...)
	return append(out, make([]byte, g.IntN(20))...)
}

func (g generator) ipv4() []byte {
	options := make([]byte, 4*one(g, 0, 0, 0, 1, 2, g.IntN(11)))
	for at := 0; at < len(options); at += max(1, int(options[at])) {
		options[at] = one[byte](g, 0, 1, 1, 7, 68, 131, 137, 148, byte(g.Uint32()))
		if at+1 < len(options) && options[at] > 1 {
			at++
			options[at] = one[byte](g, 2, 3, 4, 8, byte(g.Uint32()))
		}
	}
	protocol := one[byte](g, 1, 6, 17, 17, 132, byte(g.Uint32()))
	transport := g.transport(protocol, one(g, []uint16{67, 68}, []uint16{68, 67}))
	length := 20 + len(options) + len(transport)
	if g.rarely() {
		length = int(uint16(g.Uint32()))
	}
	out := binary.BigEndian.AppendUint16([]byte{0x40 | byte(5+len(options)/4), 0}, uint16(length))
	out = append(out, g.bytes(2)...)
	out = binary.BigEndian.AppendUint16(out, one(g, 0, 0, 0x4000, 0x2000, 0x2001, 1, uint16(g.Uint32())))
	out = append(append(out, 64, protocol, 0, 0), g.source4()...)
	out = append(append(out, 192, 0, 2, 1), options...)
	return append(append(out, transport...), make([]byte, one(g, 0, 0, g.IntN(20)))...)
}

// transport is a header and some of what follows it; ports are those of DHCP.
func (g generator) transport(protocol byte, ports []uint16) []byte {
	switch protocol {
	case 1:
		return append([]byte{one[byte](g, 0, 5, 8, 3), 0}, g.bytes(g.IntN(30))...)
	case 17:
		if g.IntN(2) == 0 {
			ports = []uint16{uint16(g.Uint32()), 53}
		}
		out := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, ports[0]), ports[1])
		return append(append(out, 0, 8, 0, 0), g.bytes(g.IntN(30))...)
	case 58:
		return g.icmpv6()
	}
	return g.bytes(20 + g.IntN(20))
}

func (g generator) ipv6() []byte {
	protocol := one[byte](g, 6, 17, 17, 58, 58, 58, 132, 59, byte(g.Uint32()))
	payload := g.transport(protocol, one(g, []uint16{547, 546}, []uint16{546, 547}))
	next := protocol
	for range one(g, 0, 0, 0, 1, 2, g.IntN(8)) {
		kind := one[byte](g, 43, 44, 51, 60, 60, 0)
		payload, next = append(g.extension(kind, next), payload...), kind
	}
	if g.IntN(8) == 0 {
		payload, next = append(g.extension(0, next), payload...), 0
	}
	length := len(payload)
	if g.rarely() {
		length = int(uint16(g.Uint32()))
	}
	out := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(length))
	out = append(append(out, next, one[byte](g, 255, 255, 255, 64)), g.source6()...)
	out = append(append(out, g.source6()...), payload...)
	return append(out, make([]byte, one(g, 0, 0, g.IntN(20)))...)
}

func (g generator) extension(kind, next byte) []byte {
	words := g.IntN(3)
	switch kind {
	case 44:
		out := binary.BigEndian.AppendUint16([]byte{next, 0}, one(g, 0, 1, 1, 9, uint16(g.Uint32())))
		return append(out, g.bytes(4)...)
	case 51:
		return append([]byte{next, byte(words)}, g.bytes(4*(words+2)-2)...)
	case 43:
		return append([]byte{next, byte(words), one[byte](g, 0, 2, 3, 4)}, g.bytes(8*(words+1)-3)...)
	}
	return append([]byte{next, byte(words)}, g.bytes(8*(words+1)-2)...)
}

// icmpv6 is of neighbour discovery mostly, with up to 18 options.
func (g generator) icmpv6() []byte {
	kind := one[byte](g, 128, 130, 131, 132, 133, 134, 135, 135, 136, 136, 137, 143, byte(g.Uint32()))
	out := []byte{kind, 0, 0, 0, 0, 0, 0, 0}
	if g.rarely() {
		out[1] = 1
	}
	switch kind {
	case 134:
		out = append(out, g.bytes(8)...)
	case 135, 136:
		out = append(out, g.source6()...)
	case 137:
		out = append(append(out, g.source6()...), g.source6()...)
	}
	for range one(g, 0, 1, 1, 2, g.IntN(19)) {
		words := one[byte](g, 1, 1, 1, 1, 2, 3, byte(g.IntN(5)))
		option := append([]byte{one[byte](g, 1, 2, 14, 3, 5), words}, g.mac()...)
		out = append(append(out, option...), make([]byte, 8*max(0, int(words)-1))...)
	}
	return out
}
