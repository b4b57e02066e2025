// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/policy"
)

// Rules are the compiled rules of a network. Those of the zero value let everything pass,
// and the programs have no code for them.
type Rules struct {
	Ingress, Egress policy.Table
}

func (r *Rules) tables() [2]policy.Table {
	return [2]policy.Table{bpf.Ingress: r.Ingress, bpf.Egress: r.Egress}
}

// len is the number of rules of both directions.
func (r *Rules) len() int { return r.Ingress.Rules + r.Egress.Rules }

// digest tells rules apart, as twelve hexadecimal digits; it is empty for none.
func (r *Rules) digest() string {
	if r.len() == 0 {
		return ""
	}
	var lines []string
	for d, t := range r.tables() {
		lines = append(lines, fmt.Sprint(d, t.Rules, t.Denies))
		for p, rules := range t.Peers {
			lines = append(lines, fmt.Sprint(d, p, rules))
		}
		for s, rules := range t.Services {
			lines = append(lines, fmt.Sprint(d, "whole", s, rules))
		}
		for s, rules := range t.Later {
			lines = append(lines, fmt.Sprint(d, "later", s, rules))
		}
	}
	slices.Sort(lines)
	return digest([]byte(strings.Join(lines, "\n")))
}

// size gives the maps of rules the room that they need; none is of no entries.
func (r *Rules) size(specs map[string]*ebpf.MapSpec) {
	peers, services := 0, 0
	for _, t := range r.tables() {
		peers += len(t.Peers)
		services += len(t.Services) + len(t.Later)
	}
	specs[bpf.PeersMap].MaxEntries = uint32(max(1, peers))
	specs[bpf.ServicesMap].MaxEntries = uint32(max(1, services))
	specs[bpf.HitsMap].MaxEntries = uint32(max(1, r.len()))
}

// constants are those of the programs.
func (r *Rules) constants() map[string]any {
	return map[string]any{
		"weir_rules":  [2]uint32{bpf.Ingress: uint32(r.Ingress.Rules), bpf.Egress: uint32(r.Egress.Rules)},
		"weir_denies": [2]uint64{bpf.Ingress: uint64(r.Ingress.Denies), bpf.Egress: uint64(r.Egress.Denies)},
	}
}

// withoutRules takes out of the programs what the constants make unreachable without rules:
// the function that looks for one, and the maps. The verifier would not follow that, but
// the kernel takes time for every instruction and every map.
func withoutRules(compiled *ebpf.CollectionSpec) {
	for _, p := range compiled.Programs {
		p.Instructions = withoutFunction(p.Instructions, bpf.RuleFunction)
		for i, ins := range p.Instructions {
			switch {
			case ins.IsFunctionReference() && ins.Reference() == bpf.RuleFunction:
				p.Instructions[i] = inPlaceOf(ins, asm.Mov.Imm(asm.R0, 0))
			case ins.IsLoadFromMap() && ins.Reference() == bpf.HitsMap:
				p.Instructions[i] = inPlaceOf(ins, asm.LoadImm(ins.Dst, 0, asm.DWord))
			}
		}
	}
	for _, name := range []string{bpf.PeersMap, bpf.ServicesMap, bpf.HitsMap} {
		delete(compiled.Maps, name)
	}
}

// withoutFunction takes the instructions from a function's name to the next one's out.
func withoutFunction(all asm.Instructions, name string) asm.Instructions {
	inside := false
	return slices.DeleteFunc(all, func(ins asm.Instruction) bool {
		if btf.FuncMetadata(&ins) != nil {
			inside = ins.Symbol() == name
		}
		return inside
	})
}

// inPlaceOf is an instruction that jumps to another find instead.
func inPlaceOf(was, ins asm.Instruction) asm.Instruction {
	ins.Metadata = was.Metadata
	return ins.WithReference("")
}

// write fills the maps that the programs look rules up in.
func (r *Rules) write(peers, services *ebpf.Map) error {
	byPeer, byService := map[bpf.Peer]uint64{}, map[bpf.Service]uint64{}
	for d, t := range r.tables() {
		for p, rules := range t.Peers {
			byPeer[peerOf(bpf.Direction(d), p)] = uint64(rules)
		}
		for s, rules := range t.Services {
			byService[serviceOf(uint8(d)|bpf.PartWhole, s)] = uint64(rules)
		}
		for s, rules := range t.Later {
			byService[serviceOf(uint8(d)|bpf.PartLater, s)] = uint64(rules)
		}
	}
	if err := errors.Join(putAll(peers, byPeer), putAll(services, byService)); err != nil {
		return fmt.Errorf("writing the rules: %w", err)
	}
	return nil
}

// putAll writes all with one system call, where the kernel can (5.13).
func putAll[K comparable](m *ebpf.Map, entries map[K]uint64) error {
	if len(entries) == 0 {
		return nil
	}
	var keys []K
	var values []uint64
	for key, value := range entries {
		keys, values = append(keys, key), append(values, value)
	}
	_, err := m.BatchUpdate(keys, values, nil)
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	for i, key := range keys {
		if err := m.Put(key, values[i]); err != nil {
			return err
		}
	}
	return nil
}

// Bits of the keys in front of the prefixes: of the direction and, for a peer, the version.
const (
	peerFixedBits    = 32
	serviceFixedBits = 8
)

func peerOf(d bpf.Direction, p netip.Prefix) bpf.Peer {
	key := bpf.Peer{Bits: uint32(peerFixedBits + p.Bits()), Direction: uint8(d), Version: 6}
	if p.Addr().Is4() {
		key.Version = 4
	}
	for i, raw := 0, p.Addr().AsSlice(); len(raw) > 0; i, raw = i+1, raw[4:] {
		key.Address[i] = binary.NativeEndian.Uint32(raw)
	}
	return key
}

func serviceOf(part uint8, s policy.Service) bpf.Service {
	port := binary.BigEndian.AppendUint16(nil, s.Port)
	return bpf.Service{
		Bits: uint32(serviceFixedBits + s.Bits), Part: part, Protocol: s.Protocol, Port: binary.NativeEndian.Uint16(port),
	}
}

// Hits are what each rule has decided, those of ingress and then those of egress; none
// without rules.
func (g *Guard) Hits() ([]bpf.Count, error) {
	g.open.RLock()
	defer g.open.RUnlock()
	return readHits(g.hits)
}

// ReadHits reads the hits from the pins of a guard that is not open.
func ReadHits(dir string) ([]bpf.Count, error) {
	var hits *ebpf.Map
	err := openMap(&hits, filepath.Join(dir, pinHits), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the hits in %s: %w", dir, err)
	}
	defer hits.Close()
	return readHits(hits)
}

// readHits reads all with one system call, where the kernel can (5.13).
func readHits(m *ebpf.Map) ([]bpf.Count, error) {
	if m == nil {
		return nil, nil
	}
	hits, err := readAtOnce(m)
	if errors.Is(err, ebpf.ErrNotSupported) {
		hits, err = readOneByOne(m)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the hits of rules: %w", err)
	}
	return hits, nil
}

func readAtOnce(m *ebpf.Map) ([]bpf.Count, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	keys := make([]uint32, m.MaxEntries())
	perCPU := make([]bpf.Count, len(keys)*cpus)
	var cursor ebpf.MapBatchCursor
	// That there is no more than this is an error, too.
	if _, err := m.BatchLookup(&cursor, keys, perCPU, nil); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, err
	}
	hits := make([]bpf.Count, len(keys))
	for i, key := range keys {
		hits[key] = sum(perCPU[i*cpus : (i+1)*cpus])
	}
	return hits, nil
}

func readOneByOne(m *ebpf.Map) ([]bpf.Count, error) {
	hits := make([]bpf.Count, m.MaxEntries())
	for i := range hits {
		var perCPU []bpf.Count
		if err := m.Lookup(uint32(i), &perCPU); err != nil {
			return nil, err
		}
		hits[i] = sum(perCPU)
	}
	return hits, nil
}

func sum(perCPU []bpf.Count) (all bpf.Count) {
	for _, n := range perCPU {
		all.Packets += n.Packets
		all.Bytes += n.Bytes
	}
	return all
}

func (g *Guard) pinHits(dir string) error {
	if g.hits == nil {
		return nil
	}
	return g.hits.Pin(filepath.Join(dir, pinHits))
}
