// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

const testAttachment = uint64(0x0123456789abcdef)

// TestNetnsDropsAreReported compares each byte of what the ring holds of a drop.
func TestNetnsDropsAreReported(t *testing.T) {
	l := loadWith(t, map[string]any{"weir_attachment": testAttachment}, all, "192.0.2.10/32")
	reader := l.reader(t)
	for _, length := range []int{14, 15, 60, 127, 128, 129, 1514} {
		for _, d := range []Direction{Ingress, Egress} {
			t.Run(fmt.Sprintf("%s of %d bytes", d, length), func(t *testing.T) {
				frame := make([]byte, length)
				copy(frame, otherMAC)
				copy(frame[6:], otherMAC)
				for i := 14; i < length; i++ {
					frame[i] = byte(i)
				}
				began := monotonic(t)
				send := l.send
				if d == Ingress {
					send = l.receive
				}
				reason := send(t, frame)
				checkReport(t, reader, d, reason, frame, began)
			})
		}
	}
}

// TestNetnsDropsNameTheRuleThatDenied drops by a rule, and behind a rule that allowed.
func TestNetnsDropsNameTheRuleThatDenied(t *testing.T) {
	const rules = `[{"action": "allow", "protocol": "tcp"}, {"action": "allow", "direction": "ingress"}, {"action": "%s", "protocol": "udp"}]`
	tests := []struct {
		action, reason string
		rule           uint16 // of egress
	}{
		{"deny", "rule_denied", 1},
		{"allow", "unknown_storm", NoRule},
	}
	for _, test := range tests {
		t.Run(test.action, func(t *testing.T) {
			constants := map[string]any{"weir_storm_ticks": StormTicks{Unknown: 3600 * TicksPerSecond}}
			l := loadRulesWith(t, constants, sources, fmt.Sprintf(rules, test.action), "192.0.2.8/32")
			reader := l.reader(t)
			for range 2 {
				l.send(t, sent(t, otherMAC))
			}
			drop := next(t, reader)
			if got := Verdict(drop.Verdict).Reason(); got != test.reason || drop.Rule != test.rule {
				t.Errorf("dropped as %s by rule %d, want %s by %d", got, drop.Rule, test.reason, test.rule)
			}
		})
	}
}

func (l *loaded) reader(t *testing.T) *ringbuf.Reader {
	t.Helper()
	reader, err := ringbuf.NewReader(l.Maps[DropsMap])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() })
	return reader
}

// next is what the ring holds next.
func next(t *testing.T, reader *ringbuf.Reader) Drop {
	t.Helper()
	var drop Drop
	if err := binary.Read(bytes.NewReader(nextRaw(t, reader)), binary.NativeEndian, &drop); err != nil {
		t.Fatal(err)
	}
	return drop
}

func nextRaw(t *testing.T, reader *ringbuf.Reader) []byte {
	t.Helper()
	reader.SetDeadline(time.Now().Add(5 * time.Second))
	record, err := reader.Read()
	if err != nil {
		t.Fatalf("nothing in the ring: %v", err)
	}
	return record.RawSample
}

// checkReport fails unless the next drop in the ring is this one.
func checkReport(t *testing.T, reader *ringbuf.Reader, d Direction, reason string, frame []byte, began uint64) {
	t.Helper()
	raw := nextRaw(t, reader)
	if len(raw) != 160 {
		t.Fatalf("a drop of %d bytes", len(raw))
	}
	if at := binary.NativeEndian.Uint64(raw); at < began || at > monotonic(t) {
		t.Errorf("dropped at %d, sent from %d on", at, began)
	}
	var verdict Verdict
	for v := range Verdicts() {
		if v.Reason() == reason {
			verdict = v
		}
	}
	captured := min(len(frame), 128)
	want := binary.NativeEndian.AppendUint64(nil, testAttachment)
	want = binary.NativeEndian.AppendUint32(want, uint32(len(frame)))
	want = binary.NativeEndian.AppendUint32(want, uint32(captured))
	want = binary.NativeEndian.AppendUint16(want, NoRule)
	want = append(want, 0, 0, 0, 0, byte(d), byte(verdict))
	want = append(want, frame[:captured]...)
	want = append(want, make([]byte, 128-captured)...)
	if !bytes.Equal(raw[8:], want) {
		t.Errorf("the ring has\n%x, want\n%x", raw[8:], want)
	}
	var drop Drop
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, &drop); err != nil {
		t.Fatal(err)
	}
	if drop.Attachment != testAttachment || drop.Length != uint32(len(frame)) || drop.Rule != NoRule || Verdict(drop.Verdict) != verdict {
		t.Errorf("read as %+v", drop)
	}
}

func monotonic(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(now.Nano())
}

// TestNetnsEachDropIsSampledOrLost floods a ring that nobody reads: each drop is in it, was
// too many, or found it full.
func TestNetnsEachDropIsSampledOrLost(t *testing.T) {
	ringLen := uint32(os.Getpagesize())
	l := loadSized(t, map[string]uint32{DropsMap: ringLen}, nil, CheckMAC|CheckDestination)
	frame := append(append([]byte{}, otherMAC...), otherMAC...)
	frame = append(frame, make([]byte, 48)...)
	began := time.Now()
	for _, program := range []string{IngressProgram, EgressProgram} {
		if _, err := l.Programs[program].Run(&ebpf.RunOptions{Data: frame, Repeat: 5000}); err != nil {
			t.Fatal(err)
		}
	}
	// The first 100 may come at once; time, that of the clock's tick included, lets more pass.
	most := 100 + uint64((time.Since(began)+20*time.Millisecond)/(10*time.Millisecond)) + 1
	samples, drops := l.samples(t), dropsOf(l.counters(t))
	if sum := samples.Sampled + samples.Limited + samples.RingFull; drops != 10000 || sum != drops {
		t.Errorf("%+v are %d of %d drops", samples, sum, drops)
	}
	if fits := uint64(ringLen) / (8 + 160); samples.Sampled == 0 || samples.Sampled > fits || samples.RingFull == 0 {
		t.Errorf("%+v in a ring with room for %d", samples, fits)
	}
	if samples.Sampled+samples.RingFull > most {
		t.Errorf("%+v: more than %d were to be reported", samples, most)
	}
}

func (l *loaded) samples(t *testing.T) Samples {
	t.Helper()
	var perCPU []Samples
	if err := l.Maps[SamplesMap].Lookup(uint32(0), &perCPU); err != nil {
		t.Fatal(err)
	}
	var sum Samples
	for _, s := range perCPU {
		sum.Sampled += s.Sampled
		sum.Limited += s.Limited
		sum.RingFull += s.RingFull
	}
	return sum
}

func dropsOf(c Counters) uint64 {
	var drops uint64
	for _, d := range []Direction{Ingress, Egress} {
		for v := range Verdicts() {
			if v != Allowed {
				drops += c.Verdicts[d][v].Packets
			}
		}
	}
	return drops
}

// BenchmarkDrop floods the programs with a frame that is dropped: as they are, and with
// nothing in them that reports.
func BenchmarkDrop(b *testing.B) {
	frame := append(append([]byte{}, otherMAC...), otherMAC...)
	frame = append(frame, make([]byte, 48)...)
	for _, reports := range []bool{false, true} {
		name := map[bool]string{false: "counted", true: "counted_and_reported"}[reports]
		b.Run(name, func(b *testing.B) {
			spec, err := CollectionSpec()
			if err != nil {
				b.Fatal(err)
			}
			if !reports {
				withoutReports(spec)
			}
			if err := spec.Variables["weir_checks"].Set(uint32(all)); err != nil {
				b.Fatal(err)
			}
			collection, err := ebpf.NewCollection(spec)
			if err != nil {
				b.Fatal(err)
			}
			defer collection.Close()
			_, perRun, err := collection.Programs[EgressProgram].Benchmark(frame, b.N, b.ResetTimer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(perRun.Nanoseconds()), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// withoutReports takes the function that reports out of the programs.
func withoutReports(spec *ebpf.CollectionSpec) {
	const function = "weir_report"
	for _, p := range spec.Programs {
		inside := false
		p.Instructions = slices.DeleteFunc(p.Instructions, func(ins asm.Instruction) bool {
			if btf.FuncMetadata(&ins) != nil {
				inside = ins.Symbol() == function
			}
			return inside
		})
		for i, ins := range p.Instructions {
			if ins.IsFunctionReference() && ins.Reference() == function {
				p.Instructions[i] = asm.Mov.Imm(asm.R0, 0).WithMetadata(ins.Metadata).WithReference("")
			}
		}
	}
}
