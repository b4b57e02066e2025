// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/weir-cni/weir/bpf"
)

// Rings reads the rings that guards report to. Guards that were loaded by one process share
// one, so that a node has as many as agents whose guards are still there; each is read once.
// Its methods may be called at the same time.
type Rings struct {
	take func(d *bpf.Drop, at time.Time)
	log  *slog.Logger

	mu      sync.Mutex
	rings   map[ebpf.MapID]*ring
	held    map[uint64]ebpf.MapID // by attachment
	readers sync.WaitGroup
}

// ring is one that is read.
type ring struct {
	source  *ebpf.Map
	reader  *ringbuf.Reader
	holders int
}

// NewRings reads nothing yet. What is read goes to take, which is called by several
// goroutines.
func NewRings(take func(d *bpf.Drop, at time.Time), log *slog.Logger) *Rings {
	return &Rings{take: take, log: log, rings: map[ebpf.MapID]*ring{}, held: map[uint64]ebpf.MapID{}}
}

// Hold has a ring read for as long as an attachment, given by its number, holds it or
// another does. An attachment holds one ring: it lets go of the one before. Hold closes the
// map, which may be nil for none, when it is done with it.
func (r *Rings) Hold(attachment uint64, m *ebpf.Map) error {
	if m == nil {
		r.Release(attachment)
		return nil
	}
	info, err := m.Info()
	if err != nil {
		return errors.Join(fmt.Errorf("asking what the ring of drops is: %w", err), m.Close())
	}
	id, known := info.ID()
	if !known {
		return errors.Join(fmt.Errorf("the kernel gives maps no numbers: %w", ebpf.ErrNotSupported), m.Close())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held[attachment] == id {
		return m.Close()
	}
	if err := r.hold(id, m); err != nil {
		return err
	}
	r.release(attachment)
	r.held[attachment] = id
	return nil
}

// hold counts one more that holds a ring. The caller holds mu.
func (r *Rings) hold(id ebpf.MapID, m *ebpf.Map) error {
	if there := r.rings[id]; there != nil {
		there.holders++
		return m.Close()
	}
	reader, err := ringbuf.NewReader(m)
	if err != nil {
		return errors.Join(fmt.Errorf("reading the ring of drops: %w", err), m.Close())
	}
	made := &ring{source: m, reader: reader, holders: 1}
	r.rings[id] = made
	r.readers.Go(func() { r.read(made) })
	return nil
}

// Release lets go of the ring of an attachment. What is in it is still read.
func (r *Rings) Release(attachment uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release(attachment)
}

func (r *Rings) release(attachment uint64) {
	id, holds := r.held[attachment]
	if !holds {
		return
	}
	delete(r.held, attachment)
	there := r.rings[id]
	there.holders--
	if there.holders > 0 {
		return
	}
	delete(r.rings, id)
	if err := there.reader.Flush(); err != nil {
		r.log.Warn("what is left in a ring of drops is not read", "err", err)
		_ = there.reader.Close()
	}
}

// Close lets go of all rings. What is in them is left to the reader that comes next.
func (r *Rings) Close() error {
	r.mu.Lock()
	var errs []error
	for _, there := range r.rings {
		errs = append(errs, there.reader.Close())
	}
	clear(r.rings)
	clear(r.held)
	r.mu.Unlock()
	r.readers.Wait()
	return errors.Join(errs...)
}

// read passes on what comes until the ring is flushed.
func (r *Rings) read(from *ring) {
	defer func() { _ = errors.Join(from.reader.Close(), from.source.Close()) }()
	var record ringbuf.Record
	told := false
	for {
		err := from.reader.ReadInto(&record)
		if errors.Is(err, ringbuf.ErrFlushed) || errors.Is(err, ringbuf.ErrClosed) {
			return
		}
		if err != nil {
			r.log.Error("drops are not read any more", "err", err)
			return
		}
		if err := r.pass(record.RawSample); err != nil && !told {
			told = true
			r.log.Warn("drops of this ring cannot be read", "err", err)
		}
	}
}

func (r *Rings) pass(raw []byte) error {
	d, err := Decode(raw)
	if err != nil {
		return err
	}
	at, err := wallClock(d.Time)
	if err != nil {
		return err
	}
	r.take(d, at)
	return nil
}
