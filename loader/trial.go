// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
)

// ErrOtherPrograms is the error of a guard whose programs are not those that this build has.
var ErrOtherPrograms = errors.New("the guard's programs are not those of this build")

// Trial is the programs of a guard, loaded once more, to ask what they would do. Constants,
// addresses, rules and members are in the guard's own maps, which the kernel lets programs
// but read. What they count goes into maps of the trial's own, and so does what they remember
// of rates and storms, which begin as the guard has them when the trial is made.
type Trial struct {
	// Build is that of the programs.
	Build string
	// Originals are the guard's programs by their direction.
	Originals [2]Pin
	loaded    *ebpf.Collection
}

// Outcome is what a guard would do with a packet.
type Outcome struct {
	Verdict bpf.Verdict
	// Rule is the number of the rule that decided, as in Hits; negative where none did.
	Rule int
}

// NewTrial makes a trial of the guard that is pinned in dir. Nothing of the guard changes. The
// error is fs.ErrNotExist where there is no guard, and ErrOtherPrograms where its
// instructions are not those of the trial, one by one.
func (l *Loader) NewTrial(dir string) (*Trial, error) {
	metadata, err := ReadMetadata(dir)
	if err != nil {
		return nil, err
	}
	if metadata.Build != l.build {
		return nil, fmt.Errorf("%w: the one in %s is of build %q, this is %q", ErrOtherPrograms, dir, metadata.Build, l.build)
	}
	t, err := l.newTrial(dir)
	if err != nil {
		return nil, fmt.Errorf("making a copy of the programs in %s: %w", dir, explain(err))
	}
	t.Build = metadata.Build
	return t, nil
}

func (l *Loader) newTrial(dir string) (*Trial, error) {
	var originals [2]*ebpf.Program
	defer func() { _ = errors.Join(originals[0].Close(), originals[1].Close()) }()
	if err := errors.Join(
		openProgram(&originals[bpf.Ingress], filepath.Join(dir, pinIngress)),
		openProgram(&originals[bpf.Egress], filepath.Join(dir, pinEgress)),
	); err != nil {
		return nil, err
	}
	theirs, err := mapsOf(originals)
	defer closeAll(theirs)
	if err != nil {
		return nil, err
	}
	t, err := l.loadTrial(theirs)
	if err != nil {
		return nil, err
	}
	if err := t.isOf(originals); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// mapsOf are the maps that programs use, by the names that they have in the object.
func mapsOf(programs [2]*ebpf.Program) (map[string]*ebpf.Map, error) {
	all := map[string]*ebpf.Map{}
	for _, p := range programs {
		info, err := p.Info()
		if err != nil {
			return all, err
		}
		ids, _ := info.MapIDs()
		for _, id := range ids {
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				return all, fmt.Errorf("opening map %d: %w", id, err)
			}
			name, err := nameOf(m)
			if err != nil {
				return all, errors.Join(fmt.Errorf("asking about map %d: %w", id, err), m.Close())
			}
			_ = all[name].Close() // both programs use most
			all[name] = m
		}
	}
	return all, nil
}

// nameOf is the name of a map in the object. That of the constants begins with the object's
// own in the kernel.
func nameOf(m *ebpf.Map) (string, error) {
	info, err := m.Info()
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(info.Name, constantsMap) {
		return constantsMap, nil
	}
	return info.Name, nil
}

const constantsMap = ".rodata"

// loadTrial loads the programs with what is theirs to read, and with maps of its own for what
// they write.
func (l *Loader) loadTrial(theirs map[string]*ebpf.Map) (*Trial, error) {
	compiled := l.spec.Copy()
	if _, hasRules := theirs[bpf.HitsMap]; !hasRules {
		withoutRules(compiled)
	}
	shared := map[string]*ebpf.Map{}
	for name, m := range theirs {
		spec, known := compiled.Maps[name]
		if !known {
			return nil, fmt.Errorf("%w: they have a map %s", ErrOtherPrograms, name)
		}
		// Which sizes the agent has given them.
		spec.Type, spec.KeySize, spec.ValueSize, spec.MaxEntries, spec.Flags = m.Type(), m.KeySize(), m.ValueSize(), m.MaxEntries(), m.Flags()
		spec.Key, spec.Value = nil, nil
		if m.Flags()&unix.BPF_F_RDONLY_PROG != 0 && name != bpf.ControlMap {
			shared[name] = m
		}
	}
	for _, name := range []string{bpf.RateMap, bpf.StormMap, bpf.HeardMap} {
		contents, err := contentsOf(theirs[name])
		if err != nil {
			return nil, fmt.Errorf("reading the map %s: %w", name, err)
		}
		compiled.Maps[name].Contents = contents
	}
	control, err := controlAlone(theirs[bpf.ControlMap])
	if err != nil {
		return nil, err
	}
	compiled.Maps[bpf.ControlMap].Contents = control
	loaded, err := ebpf.NewCollectionWithOptions(compiled, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return nil, err
	}
	return &Trial{loaded: loaded}, nil
}

// controlAlone is the control of a guard without programs on the master: a trial's packets
// have not met those.
func controlAlone(m *ebpf.Map) ([]ebpf.MapKV, error) {
	var control bpf.Control
	if err := m.Lookup(uint32(0), &control); err != nil {
		return nil, fmt.Errorf("reading the control: %w", err)
	}
	control.Master = 0
	return []ebpf.MapKV{{Key: uint32(0), Value: &control}}, nil
}

// contentsOf are the entries of a map; none of nil.
func contentsOf(m *ebpf.Map) ([]ebpf.MapKV, error) {
	if m == nil {
		return nil, nil
	}
	var contents []ebpf.MapKV
	var key, value rawValue
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		contents = append(contents, ebpf.MapKV{Key: []byte(key), Value: []byte(value)})
	}
	return contents, entries.Err()
}

// isOf proves that the trial's programs are the originals, instruction by instruction: the
// kernel has made the tag of those that it was given.
func (t *Trial) isOf(originals [2]*ebpf.Program) error {
	for d, original := range originals {
		copied := t.program(bpf.Direction(d))
		want, err := original.Info()
		if err != nil {
			return err
		}
		got, err := copied.Info()
		if err != nil {
			return err
		}
		id, _ := want.ID()
		t.Originals[d] = Pin{Kind: KindProgram, ID: uint32(id), Name: want.Name, Type: want.Type.String(), Tag: want.Tag}
		if got.Tag != want.Tag {
			return fmt.Errorf("%w: the tag of %s is %s, and that of this build's %s", ErrOtherPrograms, want.Name, want.Tag, got.Tag)
		}
	}
	return nil
}

func (t *Trial) program(d bpf.Direction) *ebpf.Program {
	return t.loaded.Programs[[2]string{bpf.Ingress: bpf.IngressProgram, bpf.Egress: bpf.EgressProgram}[d]]
}

// Run tells what the guard would do with a frame that the pod receives or sends. It must not
// be called at the same time.
func (t *Trial) Run(d bpf.Direction, frame []byte) (Outcome, error) {
	before, err := t.read()
	if err != nil {
		return Outcome{}, err
	}
	if _, err := t.program(d).Run(&ebpf.RunOptions{Data: frame}); err != nil {
		return Outcome{}, fmt.Errorf("running the programs on a frame of %d bytes: %w", len(frame), explain(err))
	}
	after, err := t.read()
	if err != nil {
		return Outcome{}, err
	}
	outcome := Outcome{Rule: -1}
	counted := 0
	for v := range bpf.Verdicts() {
		if after.counters.Of(d, v).Packets > before.counters.Of(d, v).Packets {
			outcome.Verdict = v
			counted++
		}
	}
	if counted != 1 {
		return Outcome{}, fmt.Errorf("the programs have counted a frame under %d verdicts", counted)
	}
	for i := range after.hits {
		if after.hits[i].Packets > before.hits[i].Packets {
			outcome.Rule = i
		}
	}
	return outcome, nil
}

// counted is what a trial's programs have counted.
type counted struct {
	counters bpf.Counters
	hits     []bpf.Count
}

func (t *Trial) read() (c counted, err error) {
	if c.counters, err = readCounters(t.loaded.Maps[bpf.CountersMap]); err != nil {
		return c, err
	}
	c.hits, err = readHits(t.loaded.Maps[bpf.HitsMap])
	return c, err
}

// Close lets go of the copy.
func (t *Trial) Close() error {
	t.loaded.Close()
	return nil
}

func closeAll(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close()
	}
}
