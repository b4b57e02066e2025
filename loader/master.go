// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// Kind is how the attachments of a master are told apart.
type Kind string

// The kinds.
const (
	// ByMAC is that of macvlan.
	ByMAC Kind = "mac"
	// ByAddress is that of ipvlan, all of whose interfaces have the master's MAC.
	ByAddress Kind = "address"
	// left is that of a master on which an earlier agent has left the programs, and no
	// attachment is.
	left Kind = "left"
)

// Master is the interface of the node by which an attachment reaches its network.
type Master struct {
	// Index is its number in the node's namespace.
	Index int
	Kind  Kind
	// Last is set where the attachment's own interface does not see what comes from
	// outside (ipvlan l3s).
	Last bool
}

// MasterOf finds the master of the interface at a place; false for one that has none on the
// node.
func MasterOf(p Place, host *netns.Namespace) (Master, bool, error) {
	l, err := p.link()
	if err != nil {
		return Master{}, false, err
	}
	attrs := l.Attrs()
	if p.Opposite || attrs.ParentIndex == 0 || attrs.NetNsID < 0 {
		return Master{}, false, nil
	}
	m := Master{Index: attrs.ParentIndex, Kind: ByMAC}
	switch l := l.(type) {
	case *netlink.Macvlan, *netlink.Macvtap:
	case *netlink.IPVlan:
		m.Kind, m.Last = ByAddress, l.Mode == netlink.IPVLAN_MODE_L3S
	default:
		return Master{}, false, nil
	}
	if _, err := host.Netlink().LinkByIndex(m.Index); netif.IsNotFound(err) {
		return Master{}, false, nil
	} else if err != nil {
		return Master{}, false, fmt.Errorf("looking up the master of %s: %w", p.Interface, err)
	}
	return m, true, nil
}

// post is one program on a master.
type post struct {
	name     string
	program  *ebpf.Program
	hook     hook
	priority uint16 // among filters
	pin      string
	anchor   link.Anchor
}

// posts are in the order in which a packet meets them. The caller holds mu.
func (r *Ring) posts(kind Kind) []post {
	in := hook{ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS}
	out := hook{ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS}
	to := post{bpf.ToMACProgram, r.programs.ToMAC, in, filterPriority + 1, "link_to", link.AfterProgram(r.programs.Crossing)}
	if kind == ByAddress {
		to.name, to.program = bpf.ToAddressProgram, r.programs.ToAddress
	}
	return []post{
		{bpf.LeavingProgram, r.programs.Leaving, out, filterPriority, "link_leaving", link.Head()},
		{bpf.CrossingProgram, r.programs.Crossing, in, filterPriority, "link_crossing", link.Head()},
		to,
	}
}

func (r *Ring) masterDir(index int) string { return filepath.Join(r.dir, strconv.Itoa(index)) }

// attach puts the programs on a master: those of this build, in place of what is there of
// an earlier one. The caller holds mu.
func (r *Ring) attach(m Master) error {
	if r.masters[m.Index] == m.Kind {
		return nil
	}
	if err := r.load(); err != nil {
		return err
	}
	if err := r.pin(); err != nil {
		return fmt.Errorf("pinning the ring: %w", err)
	}
	if err := os.Mkdir(r.masterDir(m.Index), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, p := range r.posts(m.Kind) {
		if err := r.place(p, m.Index); err != nil {
			return errors.Join(fmt.Errorf("attaching %s to interface %d: %w", p.name, m.Index, explain(err)), r.detach(m.Index))
		}
	}
	r.masters[m.Index] = m.Kind
	return nil
}

// place puts one program on a master: by a link, or where there are none by a filter.
func (r *Ring) place(p post, index int) error {
	path := filepath.Join(r.masterDir(index), p.pin)
	if isOn(path, index) {
		return side{program: p.program}.swapLink(path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !r.loader.noLinks.Load() {
		err := r.host.Do(func() error { return p.link(index, path) })
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
		r.loader.noLinks.Store(true)
	}
	if err := r.host.Netlink().QdiscAdd(clsactOn(index)); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("adding a clsact qdisc: %w", err)
	}
	return r.host.Netlink().FilterReplace(p.filter(index))
}

// isOn tells that a link is pinned and on an interface.
func isOn(path string, index int) bool {
	return side{pin: filepath.Base(path)}.isLinked(index, filepath.Dir(path))
}

func (p post) link(index int, path string) error {
	made, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p.program, Attach: p.hook.attach, Anchor: p.anchor})
	if err != nil {
		return err
	}
	defer made.Close()
	return made.Pin(path)
}

func (p post) filter(index int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: p.hook.parent, Handle: filterHandle, Priority: p.priority, Protocol: unix.ETH_P_ALL,
		},
		Fd: p.program.FD(), Name: p.name, DirectAction: true,
	}
}

// ensure puts programs back that are missing, and tells whether any were. One on a master
// that is gone is not. The caller holds mu.
func (r *Ring) ensure(index int, kind Kind) (restored bool, err error) {
	if _, err := r.host.Netlink().LinkByIndex(index); netif.IsNotFound(err) {
		return false, nil
	}
	for _, p := range r.posts(kind) {
		if r.isPlaced(p, index) {
			continue
		}
		if err := r.place(p, index); err != nil {
			return restored, fmt.Errorf("putting %s back on interface %d: %w", p.name, index, err)
		}
		restored = true
	}
	return restored, nil
}

func (r *Ring) isPlaced(p post, index int) bool {
	if isOn(filepath.Join(r.masterDir(index), p.pin), index) {
		return true
	}
	return side{program: p.program, hook: p.hook}.hasFilter(r.host, index)
}

// detach takes the programs off a master. The empty clsact qdisc stays, since the kernel
// drops what an interface sends while such a qdisc goes. The caller holds mu.
func (r *Ring) detach(index int) error {
	if err := errors.Join(r.removeFilters(index), r.removeLinks(index)); err != nil {
		return err
	}
	if err := Remove(r.masterDir(index)); err != nil {
		return err
	}
	delete(r.masters, index)
	return nil
}

// removeLinks takes links off at once: of one whose pin goes the kernel does so later, and
// refuses the same program meanwhile.
func (r *Ring) removeLinks(index int) error {
	pins, err := filepath.Glob(filepath.Join(r.masterDir(index), "link_*"))
	if err != nil {
		return err
	}
	for _, path := range pins {
		pinned, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return fmt.Errorf("opening the link %s: %w", path, err)
		}
		if err := errors.Join(pinned.Detach(), pinned.Close()); err != nil && !isGone(err) {
			return fmt.Errorf("detaching the link %s: %w", path, err)
		}
	}
	return nil
}

func (r *Ring) removeFilters(index int) error {
	l, err := r.host.Netlink().LinkByIndex(index)
	if netif.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("looking up the interface of index %d: %w", index, err)
	}
	if !hasClsact(r.host, l) {
		return nil
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netns.Dump(func() ([]netlink.Filter, error) { return r.host.Netlink().FilterList(l, parent) })
		if err != nil {
			return err
		}
		for _, f := range filters {
			if err := r.removeOurs(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Ring) removeOurs(f netlink.Filter) error {
	filter, ok := f.(*netlink.BpfFilter)
	if !ok || filter.Handle != filterHandle || !isMasterProgram(filter.Name) {
		return nil
	}
	if err := r.host.Netlink().FilterDel(f); err != nil && !isGone(err) {
		return fmt.Errorf("removing the filter %s: %w", filter.Name, err)
	}
	return nil
}

func isMasterProgram(name string) bool {
	switch name {
	case bpf.LeavingProgram, bpf.CrossingProgram, bpf.ToMACProgram, bpf.ToAddressProgram:
		return true
	}
	return false
}
