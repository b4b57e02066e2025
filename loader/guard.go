// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
)

// Names of the pins in a guard's directory. The links are there on kernels with
// tcx once the guard was promoted.
const (
	pinCounters    = "counters"
	pinCarried     = "carried" // only where the layout of the counters has changed
	pinFacts       = "facts"
	pinControl     = "control"
	pinRate        = "rate"    // only with bandwidth
	pinMembers     = "members" // only with isolation
	pinHits        = "hits"    // only with rules
	pinDrops       = "drops"
	pinSamples     = "samples"
	pinIngress     = "prog_ingress"
	pinEgress      = "prog_egress"
	pinIngressLink = "link_ingress"
	pinEgressLink  = "link_egress"
)

// Guard is the loaded programs and maps of one attachment. Its methods may be
// called at the same time. Closing it lets go of the process's references and
// leaves what is pinned in force.
type Guard struct {
	dir             string
	ingress, egress *ebpf.Program
	counters        *ebpf.Map
	carried         *ebpf.Map // nil where nothing was
	facts, control  *ebpf.Map
	rate            *ebpf.Map    // nil without bandwidth
	members         *ebpf.Map    // nil without isolation
	hits            *ebpf.Map    // nil without rules
	drops, samples  *ebpf.Map    // nil in a guard of a build that had none
	release         func() error // of the buffer of drops; nil where the guard was opened from its pins

	linked atomic.Bool // once its links were seen, which stay
	seat   *seat       // nil where no master is guarded for it

	mu    sync.Mutex   // orders changes
	open  sync.RWMutex // held for writing by Close, for reading by Counters
	spare uint32       // slots of the facts that were never in use
}

// Open opens a guard from its pins. The error is fs.ErrNotExist when a pin is
// missing.
func Open(dir string) (*Guard, error) {
	return openFrom(dir, func(pin string) string { return filepath.Join(dir, pin) })
}

// openFrom opens a guard whose pins are where the function says.
func openFrom(dir string, path func(pin string) string) (*Guard, error) {
	g := &Guard{dir: dir}
	err := errors.Join(
		openProgram(&g.ingress, path(pinIngress)),
		openProgram(&g.egress, path(pinEgress)),
		openMap(&g.counters, path(pinCounters), nil),
		openMap(&g.facts, path(pinFacts), nil),
		openMap(&g.control, path(pinControl), nil),
		openIfThere(&g.rate, path(pinRate)),
		openIfThere(&g.members, path(pinMembers)),
		openIfThere(&g.hits, path(pinHits)),
		openIfThere(&g.carried, path(pinCarried)),
		openIfThere(&g.drops, path(pinDrops)),
		openIfThere(&g.samples, path(pinSamples)),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the guard in %s: %w", dir, err), g.Close())
	}
	return g, nil
}

func openProgram(p **ebpf.Program, path string) (err error) {
	*p, err = ebpf.LoadPinnedProgram(path, nil)
	return err
}

func openMap(m **ebpf.Map, path string, opts *ebpf.LoadPinOptions) (err error) {
	*m, err = ebpf.LoadPinnedMap(path, opts)
	return err
}

// openIfThere leaves a map nil that is not pinned.
func openIfThere(m **ebpf.Map, path string) error {
	err := openMap(m, path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close lets go of the programs and maps. What is pinned or attached stays.
func (g *Guard) Close() error {
	g.open.Lock()
	defer g.open.Unlock()
	var err error
	if g.release != nil {
		err = g.release()
	}
	return errors.Join(err, g.ingress.Close(), g.egress.Close(), g.counters.Close(), g.facts.Close(), g.control.Close(), g.rate.Close(),
		g.members.Close(), g.hits.Close(), g.carried.Close(), g.drops.Close(), g.samples.Close())
}

// Dir is the directory of the pins.
func (g *Guard) Dir() string { return g.dir }

// Reserve makes a directory of pins below parent: the first of names that no
// other guard has. The last of them is the caller's alone, and what an earlier
// guard left there is removed.
func Reserve(parent string, names ...string) (string, error) {
	for _, name := range names {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
	dir := filepath.Join(parent, names[len(names)-1])
	if err := Remove(dir); err != nil {
		return "", err
	}
	return dir, os.Mkdir(dir, 0o700)
}

func (g *Guard) pin(dir string) error {
	g.dir = dir
	return errors.Join(
		g.counters.Pin(filepath.Join(dir, pinCounters)),
		g.facts.Pin(filepath.Join(dir, pinFacts)),
		g.control.Pin(filepath.Join(dir, pinControl)),
		g.drops.Pin(filepath.Join(dir, pinDrops)),
		g.samples.Pin(filepath.Join(dir, pinSamples)),
		g.ingress.Pin(filepath.Join(dir, pinIngress)),
		g.egress.Pin(filepath.Join(dir, pinEgress)),
		g.pinRate(dir),
		g.pinMembers(dir),
		g.pinHits(dir),
	)
}

// pinMembers pins the table once more, where the guard has one: it goes with the last of the
// guards that share it.
func (g *Guard) pinMembers(dir string) error {
	if g.members == nil {
		return nil
	}
	return g.members.Pin(filepath.Join(dir, pinMembers))
}

// Remove deletes the pins of a guard, and with them its links. What is not there
// is no error. Filters go with their interface, or by Detach.
func Remove(dir string) error {
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the pins in %s: %w", dir, err)
	}
	return nil
}

// SetAddresses replaces the sources that the attachment may send from. A packet
// on its way meets the old ones or the new ones, whole.
func (g *Guard) SetAddresses(a Addresses) error {
	facts, err := factsOf(a)
	if err != nil {
		return err
	}
	if err := g.change(func(c *bpf.Control) error {
		if err := g.takeSlot(); err != nil {
			return err
		}
		c.Slot = (c.Slot + 1) % bpf.FactsSlots
		return g.facts.Put(c.Slot, facts)
	}); err != nil {
		return err
	}
	return g.seat.follow(facts)
}

// takeSlot returns once no program can be reading the next slot: at once for one
// that was never in use, else after a grace period.
func (g *Guard) takeSlot() error {
	if g.spare > 0 {
		g.spare--
		return nil
	}
	return waitForPrograms()
}

// waitForPrograms returns when every program that was running has ended. The
// kernel waits so whenever a map of maps is updated (since 4.20); membarrier,
// which does too, refuses on nodes with nohz_full.
func waitForPrograms() error {
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner,
	})
	if err != nil {
		return fmt.Errorf("waiting for programs to end: %w", err)
	}
	defer outer.Close()
	value, err := ebpf.NewMap(inner)
	if err != nil {
		return fmt.Errorf("waiting for programs to end: %w", err)
	}
	defer value.Close()
	if err := outer.Put(uint32(0), value); err != nil {
		return fmt.Errorf("waiting for programs to end: %w", err)
	}
	return nil
}

// yieldIngress lets the pod's own filters see what ingress allowed. It must not
// be called while two hooks hold the program, which would count twice.
func (g *Guard) yieldIngress() error {
	return g.change(func(c *bpf.Control) error {
		c.IngressAction = actUnspec
		return nil
	})
}

func (g *Guard) change(fn func(*bpf.Control) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var control bpf.Control
	if err := g.control.Lookup(uint32(0), &control); err != nil {
		return fmt.Errorf("reading the control in %s: %w", g.dir, err)
	}
	if err := fn(&control); err != nil {
		return fmt.Errorf("changing the guard in %s: %w", g.dir, err)
	}
	if err := g.control.Put(uint32(0), &control); err != nil {
		return fmt.Errorf("writing the control in %s: %w", g.dir, err)
	}
	return nil
}

// actUnspec is TC_ACT_UNSPEC (linux/pkt_cls.h).
const actUnspec = -1

// Hook is the hook that holds the guard's programs.
func (g *Guard) Hook() Hook {
	if g.linked.Load() {
		return TCX
	}
	hook := HookOf(g.dir)
	g.linked.Store(hook == TCX)
	return hook
}

// HookOf is the hook that holds the programs pinned in dir.
func HookOf(dir string) Hook {
	if _, err := os.Lstat(filepath.Join(dir, pinEgressLink)); err == nil {
		return TCX
	}
	return Clsact
}

// Hook is the place in the kernel where the programs of an attachment sit.
type Hook string

// The hooks.
const (
	// TCX is a pair of links, from kernel 6.6. A pod cannot remove them.
	TCX Hook = "tcx"
	// Clsact is a pair of filters on a clsact qdisc, on any kernel.
	Clsact Hook = "clsact"
	// Gone is where the interface is not there any more.
	Gone Hook = "gone"
)

// isGone tells that a link or filter has lost its interface.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOLINK) || errors.Is(err, unix.ENODEV) || errors.Is(err, fs.ErrNotExist)
}
