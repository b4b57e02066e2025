// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/segment"
)

// Loader loads the programs of attachments. Its methods may be called at the
// same time for different attachments.
type Loader struct {
	spec    *ebpf.CollectionSpec
	build   string
	carried *ebpf.MapSpec // of counters that are not counted into any more
	noLinks atomic.Bool   // set once the kernel has refused a tcx link for good
	drops   *dropBuffer
}

// New reads the embedded programs and asks the kernel what it is too old for. It leaves
// nothing behind.
func New() (*Loader, error) {
	spec, err := bpf.CollectionSpec()
	if err != nil {
		return nil, err
	}
	carried := spec.Maps[bpf.CountersMap].Copy()
	carried.Name, carried.Type = "weir_carried", ebpf.Array
	drops := &dropBuffer{spec: spec.Maps[bpf.DropsMap]}
	return &Loader{spec: spec, build: bpf.Build(), carried: carried, drops: drops}, nil
}

// Spec says what is to be guarded, and against what.
type Spec struct {
	// Dir is the directory of the pins, as Reserve made it.
	Dir string
	// Interface is the pod's name of the interface. It, Pod, Network and
	// ContainerID are shown by bpftool prog, each cut to what the program has
	// room for: 15, 127, 127 and 79 bytes.
	Interface, Pod, Network, ContainerID string
	// PodUID is the number that the cluster knows the pod by; optional. By it its control
	// group is found.
	PodUID string
	// Checks are those that the programs make of what the pod sends.
	Checks bpf.Check
	// Ingress and Egress are the bandwidth of what the pod receives and sends.
	// When both are zero the programs have no code for it.
	Ingress, Egress Rate
	// Storms are limits of what the pod sends to all, to groups and to unknown hosts.
	Storms Storms
	// Rules are what the network lets pass.
	Rules Rules `json:"-"`
	// GoesRound leaves the pod the sockets that send past tc. The programs know nothing of
	// it.
	GoesRound bool
	// Place is where the attachment stands in its network. Members are those of its
	// segment; nil for a table of its own. Where the place is not restricted the programs
	// have no code for it.
	Place   segment.Place
	Members *Members
	// Ring is the node's; nil where no master is guarded.
	Ring *Ring
	// Sources are prefixes that the attachment may send from beside its own addresses.
	Sources []netip.Prefix
	// Addresses are its own.
	Addresses
}

// settings tell guards apart that are made in different ways: twelve hexadecimal digits of
// all of a spec but whose it is, and who else is there.
func (s Spec) settings() (string, error) {
	s.Members, s.Ring = nil, nil
	s.Dir, s.Interface, s.Pod, s.Network, s.ContainerID, s.PodUID, s.Addresses = "", "", "", "", "", "", Addresses{}
	data, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("summing the settings up: %w", err)
	}
	return digest(append(data, s.Rules.digest()...)), nil
}

// digest is twelve hexadecimal digits of the SHA-256.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:12]
}

// Validate tells why no guard can be made of a spec.
func (s Spec) Validate() error {
	_, err := factsOf(s.sources())
	return errors.Join(err, s.Ingress.Validate(), s.Egress.Validate(), s.Storms.Validate())
}

// sources are all that the attachment may send from.
func (s Spec) sources() Addresses {
	return Addresses{MAC: s.MAC, Prefixes: slices.Concat(s.Prefixes, s.Sources)}
}

// Addresses are the sources that an attachment may send from.
type Addresses struct {
	// MAC is the hardware address: 6 bytes.
	MAC net.HardwareAddr
	// Prefixes are the allowed source addresses: at most bpf.PrefixesMax of
	// each family. Host bits are ignored.
	Prefixes []netip.Prefix
}

// Load loads the programs of an attachment whose interface need not exist yet:
// the addresses of the spec are not looked at. Nothing is attached or pinned.
func (l *Loader) Load(spec Spec) (*Guard, error) {
	g, err := l.load(spec, sharedOf(spec))
	if err != nil {
		return nil, fmt.Errorf("loading the programs of %s: %w", spec.Interface, explain(err))
	}
	return g, nil
}

// Attach fills the maps of a loaded guard, pins it and attaches its programs at
// their place. When it returns nil they are in force; when it returns an error the
// guard is closed and nothing of it is left.
func (l *Loader) Attach(p Place, g *Guard, spec Spec) error {
	if err := l.install(p, g, spec); err != nil {
		return errors.Join(err, os.RemoveAll(spec.Dir), g.Close())
	}
	return nil
}

func (l *Loader) install(p Place, g *Guard, spec Spec) error {
	facts, err := factsOf(spec.sources())
	if err != nil {
		return err
	}
	if err := g.facts.Put(uint32(0), facts); err != nil {
		return fmt.Errorf("writing the facts of %s: %w", spec.Interface, err)
	}
	if err := g.SetRates(spec.Ingress, spec.Egress); err != nil {
		return err
	}
	if err := g.pin(spec.Dir); err != nil {
		return fmt.Errorf("pinning the programs of %s: %w", spec.Interface, err)
	}
	if err := attachFilters(p, g); err != nil {
		return fmt.Errorf("attaching the programs to %s: %w", p.Interface, explain(err))
	}
	if !l.noLinks.Load() {
		return nil
	}
	return g.yieldIngress()
}

// sharedOf are the maps that a guard shares with those of its segment, and of its node.
func sharedOf(spec Spec) map[string]*ebpf.Map {
	shared := map[string]*ebpf.Map{}
	if spec.Members != nil && spec.Place.Isolation.Restricted() {
		shared[bpf.MembersMap] = spec.Members.table
	}
	if spec.Ring != nil {
		spec.Ring.share(shared)
	}
	return shared
}

// load loads the programs with maps of their own but for those that are shared.
func (l *Loader) load(spec Spec, shared map[string]*ebpf.Map) (*Guard, error) {
	if err := errors.Join(spec.Ingress.Validate(), spec.Egress.Validate(), spec.Storms.Validate()); err != nil {
		return nil, err
	}
	compiled := l.spec.Copy()
	if spec.Storms.Unknown == 0 {
		compiled.Maps[bpf.HeardMap].MaxEntries = 1
	}
	if !spec.Place.Isolation.Restricted() {
		withoutMembers(compiled.Maps[bpf.MembersMap])
	}
	if spec.Ring == nil {
		compiled.Maps[bpf.LocalsMap].MaxEntries, compiled.Maps[bpf.OwnersMap].MaxEntries = 1, 1
	}
	spec.Rules.size(compiled.Maps)
	if err := setConstants(compiled, spec, l.build); err != nil {
		return nil, err
	}
	drops, release, err := l.drops.acquire()
	if err != nil {
		return nil, fmt.Errorf("making the buffer of drops: %w", err)
	}
	replacements := map[string]*ebpf.Map{bpf.DropsMap: drops}
	maps.Copy(replacements, shared)
	var o objects
	var rules ruleObjects
	var to any = &o
	if spec.Rules.len() > 0 {
		to = &struct {
			*objects
			*ruleObjects
		}{&o, &rules}
	} else {
		withoutRules(compiled)
	}
	if err := compiled.LoadAndAssign(to, &ebpf.CollectionOptions{MapReplacements: replacements}); err != nil {
		return nil, errors.Join(err, release())
	}
	defer o.Constants.Close()
	defer rules.Peers.Close()
	defer rules.Services.Close()
	g := &Guard{
		ingress:  o.Ingress,
		egress:   o.Egress,
		counters: o.Counters,
		facts:    o.Facts,
		control:  o.Control,
		drops:    o.Drops,
		samples:  o.Samples,
		release:  release,
		spare:    bpf.FactsSlots - 1,
	}
	if err := errors.Join(
		keepIf(spec.isLimited(), &g.rate, o.Rate),
		keepIf(spec.Place.Isolation.Restricted(), &g.members, o.Members),
	); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.hits = rules.Hits
	if err := spec.Rules.write(rules.Peers, rules.Services); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if err := bindMetadata(&o); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// keepIf keeps a map that the programs use, or closes it.
func keepIf(used bool, to **ebpf.Map, m *ebpf.Map) error {
	if used {
		*to = m
		return nil
	}
	return m.Close()
}

// objects are all that is loaded for one attachment. A collection would have the
// constants too, each mapped into memory, where their map lives on until the
// garbage collector comes by.
type objects struct {
	Ingress   *ebpf.Program `ebpf:"weir_ingress"`
	Egress    *ebpf.Program `ebpf:"weir_egress"`
	Counters  *ebpf.Map     `ebpf:"weir_counters"`
	Facts     *ebpf.Map     `ebpf:"weir_facts"`
	Control   *ebpf.Map     `ebpf:"weir_control"`
	Rate      *ebpf.Map     `ebpf:"weir_rate"`
	Members   *ebpf.Map     `ebpf:"weir_members"`
	Drops     *ebpf.Map     `ebpf:"weir_drops"`
	Samples   *ebpf.Map     `ebpf:"weir_samples"`
	Constants *ebpf.Map     `ebpf:".rodata"`
}

// ruleObjects are what is loaded with rules only; else they are nil.
type ruleObjects struct {
	Peers    *ebpf.Map `ebpf:"weir_peers"`
	Services *ebpf.Map `ebpf:"weir_services"`
	Hits     *ebpf.Map `ebpf:"weir_hits"`
}

func setConstants(compiled *ebpf.CollectionSpec, spec Spec, build string) error {
	settings, err := spec.settings()
	if err != nil {
		return err
	}
	constants := map[string]any{
		"weir_storm_ticks":       spec.Storms.ticks(),
		"weir_checks":            uint32(spec.Checks),
		"weir_limits_rate":       spec.isLimited(),
		"weir_has_cookie":        KnowsNamespaces(),
		"weir_role":              roleOf(spec.Place.Isolation),
		"weir_community":         spec.Place.Isolation.CommunityNumber(),
		"weir_attachment":        AttachmentID(spec.ContainerID, spec.Interface),
		"bpf_metadata_pod":       spec.Pod,
		"bpf_metadata_interface": spec.Interface,
		"bpf_metadata_network":   spec.Network,
		"bpf_metadata_container": spec.ContainerID,
		"bpf_metadata_build":     build,
		"bpf_metadata_settings":  settings,
		"bpf_metadata_rules":     spec.Rules.digest(),
	}
	maps.Copy(constants, spec.Rules.constants())
	for name, value := range constants {
		variable := compiled.Variables[name]
		if text, ok := value.(string); ok {
			value = cString(text, int(variable.Size()))
		}
		if err := variable.Set(value); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

// AttachmentID is what the drops of an attachment bear. It follows from what the metadata
// of a guard holds, so that every agent finds the same.
func AttachmentID(containerID, netif string) uint64 {
	sum := sha256.Sum256([]byte(CutContainerID(containerID) + "/" + netif))
	return binary.BigEndian.Uint64(sum[:])
}

// CutContainerID is a container ID as the metadata of a guard holds it.
func CutContainerID(id string) string { return id[:min(len(id), containerIDMax)] }

// containerIDMax is the room for a container ID in the metadata, in bytes.
const containerIDMax = 79

// cString is text as a C array of size bytes holds it, cut to leave room for
// the terminating zero.
func cString(text string, size int) []byte {
	b := make([]byte, size)
	copy(b[:size-1], text)
	return b
}

// bindMetadata makes the constants belong to the ingress program too, whatever it
// reads of them: the kernel shows the metadata of a program only from maps
// that are its own.
func bindMetadata(o *objects) error {
	err := o.Ingress.BindMap(o.Constants)
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("binding the metadata: %w", err)
	}
	return nil
}

// ErrKernel is the error of a kernel, or of a process in it, that cannot run the
// programs.
var ErrKernel = errors.New("this kernel cannot run weir's programs")

// explain adds to an error of loading or attaching what the kernel or the
// process lacks, where that can be told.
func explain(err error) error {
	if missing := Missing(); missing != nil && !errors.Is(err, ErrKernel) {
		return fmt.Errorf("%w: %w", missing, err)
	}
	return err
}

// EnsureFilesystem makes dir, and mounts bpffs where it is missing: on
// /sys/fs/bpf for a directory below it, else on dir itself.
func EnsureFilesystem(dir string) error {
	mountpoint := dir
	if within(dir, defaultMountpoint) {
		mountpoint = defaultMountpoint
	}
	if err := os.MkdirAll(mountpoint, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", mountpoint, err)
	}
	if !isBPFFS(mountpoint) {
		if err := unix.Mount("bpf", mountpoint, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mounting bpffs on %s: %w", mountpoint, err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	return nil
}

const defaultMountpoint = "/sys/fs/bpf"

func within(path, parent string) bool {
	rel, err := filepath.Rel(parent, path)
	return err == nil && filepath.IsLocal(rel)
}

func isBPFFS(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.BPF_FS_MAGIC
}
