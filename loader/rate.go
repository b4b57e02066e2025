// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math/bits"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
)

// Rate is the bandwidth of one direction, in bits of whole frames: Ethernet header
// and VLAN tag included, FCS not, each segment of a GSO packet by itself. That is
// what tc counts. The zero value is no limit.
type Rate struct {
	// BitsPerSecond is what passes in the long run: from 8 to 1e15, or 0.
	BitsPerSecond uint64
	// BurstBits is what may pass at once after a rest, and one packet more. When it
	// is 0 it is that of 20 ms, and no less than ten full frames, the first
	// window of a TCP connection (RFC 6928).
	BurstBits uint64
}

const (
	// leastRate is one byte a second, the least that the reference plugin takes.
	leastRate = 8
	// greatestRate is 1 Pbit/s, the most that Kubernetes takes.
	greatestRate = 1e15
	// longestBurst keeps differences of times within 63 bits. In ticks.
	longestBurst = 1 << 62

	defaultBurst = bpf.TicksPerSecond / 50
	leastBurst   = 10 * 1514 * 8 // bits
)

// ErrRate is the error of a rate that cannot be kept.
var ErrRate = errors.New("unusable bandwidth")

// Validate tells what is wrong with a rate. The error is ErrRate.
func (r Rate) Validate() error {
	switch {
	case r.BitsPerSecond == 0 && r.BurstBits > 0:
		return fmt.Errorf("%w: a burst of %d bits without a rate", ErrRate, r.BurstBits)
	case r == Rate{}:
		return nil
	case r.BitsPerSecond < leastRate:
		return fmt.Errorf("%w: a rate of %d bit/s is less than %d", ErrRate, r.BitsPerSecond, leastRate)
	case r.BitsPerSecond > greatestRate:
		return fmt.Errorf("%w: a rate of %d bit/s is more than %d", ErrRate, r.BitsPerSecond, uint64(greatestRate))
	}
	if _, ok := r.ticksFor(r.BurstBits); !ok {
		return fmt.Errorf("%w: at %d bit/s, a burst of %d bits takes more than nine years", ErrRate, r.BitsPerSecond, r.BurstBits)
	}
	return nil
}

// ticksFor is the time that so many bits take; false when that is too long.
func (r Rate) ticksFor(n uint64) (uint64, bool) {
	high, low := bits.Mul64(n, bpf.TicksPerSecond)
	if high >= r.BitsPerSecond {
		return 0, false
	}
	ticks, _ := bits.Div64(high, low, r.BitsPerSecond)
	return ticks, ticks <= longestBurst
}

// burst is what a direction at rest saves up, in ticks.
func (r Rate) burst() uint64 {
	if r.BurstBits == 0 {
		ticks, _ := r.ticksFor(leastBurst)
		return max(defaultBurst, ticks)
	}
	ticks, _ := r.ticksFor(r.BurstBits)
	return ticks
}

func (s Spec) isLimited() bool { return s.Ingress != Rate{} || s.Egress != Rate{} }

// ErrNoBandwidth is the error of setting a rate on a guard that was loaded without
// one.
var ErrNoBandwidth = errors.New("the programs were loaded without bandwidth")

// SetRates changes the bandwidth of what the pod receives and sends; a zero Rate
// lifts the limit of its direction. What was spent stays spent. The error is
// ErrRate for what Validate refuses, ErrNoBandwidth when both rates of the Spec
// were zero and one of these is not.
func (g *Guard) SetRates(ingress, egress Rate) error {
	if err := errors.Join(ingress.Validate(), egress.Validate()); err != nil {
		return fmt.Errorf("setting the bandwidth in %s: %w", g.dir, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rate == nil {
		if (ingress != Rate{} || egress != Rate{}) {
			return fmt.Errorf("setting the bandwidth in %s: %w", g.dir, ErrNoBandwidth)
		}
		return nil
	}
	return errors.Join(g.setRate(bpf.Ingress, ingress), g.setRate(bpf.Egress, egress))
}

// setRate may forget a packet that passes at the same time: nothing locks the
// programs out.
func (g *Guard) setRate(d bpf.Direction, r Rate) error {
	var entry bpf.Rate
	if err := g.rate.Lookup(uint32(d), &entry); err != nil {
		return fmt.Errorf("reading the %s rate in %s: %w", d, g.dir, err)
	}
	wasLimited := entry.BitsPerSecond != 0
	entry.BitsPerSecond, entry.Burst = r.BitsPerSecond, 0
	if r != (Rate{}) {
		entry.Burst = r.burst()
	}
	if !wasLimited {
		now, err := ticks()
		if err != nil {
			return fmt.Errorf("reading the monotonic clock: %w", err)
		}
		entry.Paid = now - entry.Burst
	}
	if err := g.rate.Put(uint32(d), &entry); err != nil {
		return fmt.Errorf("writing the %s rate in %s: %w", d, g.dir, err)
	}
	return nil
}

// ticks is the clock of the programs.
func ticks() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, err
	}
	const perNanosecond = bpf.TicksPerSecond / 1e9
	return uint64(now.Nano()) * perNanosecond, nil
}

// pins are what every open guard has pinned.
func (g *Guard) pins() []string {
	pins := []string{pinCounters, pinFacts, pinControl, pinIngress, pinEgress}
	if g.rate != nil {
		pins = append(pins, pinRate)
	}
	if g.members != nil {
		pins = append(pins, pinMembers)
	}
	if g.hits != nil {
		pins = append(pins, pinHits)
	}
	if g.drops != nil {
		pins = append(pins, pinDrops, pinSamples)
	}
	return pins
}

func (g *Guard) pinRate(dir string) error {
	if g.rate == nil {
		return nil
	}
	return g.rate.Pin(filepath.Join(dir, pinRate))
}
