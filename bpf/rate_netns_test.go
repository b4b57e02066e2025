// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/tests/lan"
)

const rateLimited = weirWeirVerdictWEIR_RATE_LIMITED

// bucket is the model of a direction's bandwidth, written from its meaning: a level
// in ticks, which rises with time to at most the burst, or without bound for a
// patience after a drop. A packet passes when the level is not below nothing.
type bucket struct {
	bitsPerSecond, burst uint64
	level                int64
	sinceDrop            int64 // ticks
}

func (b *bucket) pass(length uint64) bool {
	if b.level < 0 {
		return false
	}
	if b.sinceDrop > patience {
		b.level = min(b.level, int64(b.burst))
	}
	cost := (length*8*TicksPerSecond + b.bitsPerSecond - 1) / b.bitsPerSecond
	b.level -= int64(cost)
	return true
}

func loadLimited(tb testing.TB) *loaded {
	tb.Helper()
	return loadWith(tb, map[string]any{"weir_limits_rate": true}, 0)
}

func ticksNow(tb testing.TB) uint64 {
	tb.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		tb.Fatal(err)
	}
	return uint64(now.Nano()) * (TicksPerSecond / 1e9)
}

func (l *loaded) setRate(tb testing.TB, d Direction, r Rate) {
	tb.Helper()
	if err := l.Maps[RateMap].Put(uint32(d), &r); err != nil {
		tb.Fatal(err)
	}
}

func (l *loaded) rateOf(tb testing.TB, d Direction) (r Rate) {
	tb.Helper()
	if err := l.Maps[RateMap].Lookup(uint32(d), &r); err != nil {
		tb.Fatal(err)
	}
	return r
}

// passes is what either program returns for a packet that it lets pass.
const passes = 0

func (l *loaded) programOf(d Direction) *ebpf.Program {
	if d == Ingress {
		return l.Programs[IngressProgram]
	}
	return l.Programs[EgressProgram]
}

func ofLength(tb testing.TB, length int) []byte {
	tb.Helper()
	return lan.Frame(tb, eth(podMAC, layers.EthernetTypeIPv4), ipv4("192.0.2.8"), udp, gopacket.Payload(make([]byte, length-42)))
}

const (
	second   = int64(TicksPerSecond)
	patience = 4 * second
)

// Single packets meet buckets in every state. The clock is the kernel's, so a case
// bears a test that stops anywhere for less than its margin, and is made again when
// it stopped for longer.
func TestNetnsRateVerdicts(t *testing.T) {
	const mbit, margin = 1e6, second / 4
	tests := []struct {
		name             string
		rate, burst      uint64
		level, sinceDrop int64
		length           int
	}{
		{"at rest", mbit, TicksPerSecond / 50, 3600 * second, 3600 * second, 100},
		{"in debt", mbit, TicksPerSecond / 50, -3600 * second, 3600 * second, 100},
		{"in debt, just dropped", mbit, TicksPerSecond / 50, -second, 0, 100},
		{"long silent after a drop", mbit, TicksPerSecond / 50, 3600 * second, patience + margin, 100},
		{"saved after a drop", mbit, TicksPerSecond / 50, second, patience / 2, 100},
		{"below the burst", mbit, 10 * TicksPerSecond, second, 3600 * second, 100},
		{"a long packet goes into debt", 1000, 1, 0, 3600 * second, 1514},
		{"8 bit/s", 8, TicksPerSecond, 3600 * second, 3600 * second, 1514},
		{"100 Gbit/s", 100e9, TicksPerSecond / 50, 3600 * second, 3600 * second, 60},
		{"1 Pbit/s", 1e15, TicksPerSecond / 50, 3600 * second, 3600 * second, 60},
		{"the longest burst", 8, 1 << 62, 3600 * second, 3600 * second, 1514},
	}
	l := loadLimited(t)
	for _, test := range tests {
		for _, d := range []Direction{Ingress, Egress} {
			t.Run(test.name+", "+d.String(), func(t *testing.T) {
				frame := ofLength(t, test.length)
				for stopped := true; stopped; {
					before := ticksNow(t)
					l.setRate(t, d, Rate{BitsPerSecond: test.rate, Burst: test.burst, Paid: before - uint64(test.level), Dropped: before - uint64(test.sinceDrop)})
					counted := l.counters(t)
					program := l.programOf(d)
					code, _, err := program.Test(frame)
					if err != nil {
						t.Fatal(err)
					}
					after := ticksNow(t)
					if stopped = int64(after-before) > margin; stopped {
						continue
					}
					earliest := bucket{test.rate, test.burst, test.level, test.sinceDrop}
					took := int64(after - before)
					latest := bucket{test.rate, test.burst, test.level + took, test.sinceDrop + took}
					want := earliest.pass(uint64(test.length))
					if latest.pass(uint64(test.length)) != want {
						t.Fatal("the case lies on an edge")
					}
					if got := code == passes; got != want {
						t.Fatalf("passed: %t, want %t", got, want)
					}
					l.checkCounted(t, d, counted, test.length, want)
					if got := int64(after - l.rateOf(t, d).Paid); want && (got < earliest.level || got > latest.level+took) {
						t.Errorf("level %d after the packet, want %d to %d", got, earliest.level, latest.level)
					}
					if got := int64(after - l.rateOf(t, d).Dropped); !want && (got < 0 || got > took) {
						t.Errorf("dropped %d ticks ago, want 0 to %d", got, took)
					}
				}
			})
		}
	}
}

func (l *loaded) checkCounted(t *testing.T, d Direction, before Counters, length int, passed bool) {
	t.Helper()
	v := rateLimited
	if passed {
		v = Allowed
	}
	want := before
	want.Verdicts[d][v].Packets++
	want.Verdicts[d][v].Bytes += uint64(length)
	got := l.counters(t)
	got.Allowed, want.Allowed = Counters{}.Allowed, Counters{}.Allowed // which other tests look at
	if got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
}

func TestNetnsUnlimitedDirectionsPass(t *testing.T) {
	l := loadLimited(t)
	for _, d := range []Direction{Ingress, Egress} {
		// What was spent does not matter, nor what the other direction has left.
		l.setRate(t, d, Rate{Paid: ticksNow(t) + uint64(3600*second)})
		l.setRate(t, 1-d, Rate{BitsPerSecond: 8, Paid: ticksNow(t) + uint64(3600*second)})
		program := l.programOf(d)
		if code, _, err := program.Test(ofLength(t, 100)); err != nil || code != passes {
			t.Errorf("%s: returned %d, %v", d, code, err)
		}
	}
}

// A direction that is never idle passes what its rate allows: never more than the
// burst, the rate and one packet, never less than the rate and what it cannot
// spend, which is one packet too.
func TestNetnsRateIsExactUnderLoad(t *testing.T) {
	l := loadLimited(t)
	random := rand.New(rand.NewPCG(1, 2))
	for _, bitsPerSecond := range []uint64{1e6, 100e6, 10e9, 100e9} {
		for _, d := range []Direction{Ingress, Egress} {
			length := 60 + random.IntN(1400)
			frame := ofLength(t, length)
			burst := random.Uint64N(TicksPerSecond / 100)
			program := l.programOf(d)
			before := l.counters(t)
			begin := ticksNow(t)
			// Just dropped: nothing is lost however long the test is stopped.
			l.setRate(t, d, Rate{BitsPerSecond: bitsPerSecond, Burst: burst, Paid: begin - burst, Dropped: begin})
			for time.Duration(ticksNow(t)-begin) < 100*time.Millisecond*TicksPerSecond/1e9 {
				if _, _, err := program.Benchmark(frame, 10000, nil); err != nil {
					t.Fatal(err)
				}
			}
			last := l.rateOf(t, d).Dropped
			end := ticksNow(t)
			after := l.counters(t)
			passed := after.Of(d, Allowed).Bytes - before.Of(d, Allowed).Bytes
			dropped := after.Of(d, rateLimited).Packets - before.Of(d, rateLimited).Packets
			allows := func(since uint64) float64 {
				return float64(since-begin+burst) / TicksPerSecond * float64(bitsPerSecond) / 8
			}
			if most := allows(end) + float64(length); float64(passed) > most {
				t.Errorf("%s at %d bit/s: %d bytes passed, more than %.0f", d, bitsPerSecond, passed, most)
			}
			rounding := 1 - 1/float64(length) // costs are whole ticks, each shorter than a byte
			if least := allows(last)*rounding - float64(length); dropped > 0 && float64(passed) < least {
				t.Errorf("%s at %d bit/s: %d bytes passed, less than %.0f", d, bitsPerSecond, passed, least)
			}
			t.Logf("%s at %d bit/s: %d bytes of %.0f, %d packets dropped", d, bitsPerSecond, passed, allows(end), dropped)
		}
	}
}
