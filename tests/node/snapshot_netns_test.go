// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// snapshot is all that an ADD can change on a machine.
type snapshot struct {
	// Links are the interfaces of each host, with addresses and routes.
	Links map[string][]string
	// Pins are the files and directories in the node's part of bpffs.
	Pins []string
	// Objects are the loaded programs of the node's pods, and their maps.
	Objects []string
	// Files are those of the agent's state and of the address leases, with
	// a hash of their content.
	Files []string
	// Descriptors counts the agent's open files by what they are.
	Descriptors map[string]int
}

// Snapshot is how the machine is now.
func (n *Node) Snapshot() snapshot {
	n.tb.Helper()
	s := snapshot{Links: map[string][]string{}}
	s.Links["node"] = n.linksOf(n.machine)
	s.Links["outside"] = n.linksOf(n.outside)
	for _, p := range n.pods {
		if _, err := os.Stat(p.Path()); err == nil {
			s.Links["pod "+p.Name] = n.linksOf(p.Host)
		}
	}
	s.Pins = n.walk(n.bpfDir, func(path string, _ fs.DirEntry) string { return path })
	s.Objects = n.loaded()
	s.Files = slices.Concat(n.filesIn("state"), n.filesIn("leases"))
	s.Descriptors = n.descriptors()
	return s
}

// settleFor bounds the time that the kernel takes to free what nobody uses: its
// programs are freed after a grace period, the agent's connections when it gets
// to it.
const settleFor = 10 * time.Second

// mustBe waits until the machine is as it was.
func (n *Node) mustBe(want snapshot) {
	n.tb.Helper()
	var diff string
	for began := time.Now(); time.Since(began) < settleFor; time.Sleep(20 * time.Millisecond) {
		if diff = cmp.Diff(want, n.Snapshot()); diff == "" {
			return
		}
	}
	n.tb.Errorf("the machine is not as before (-want +got):\n%s", diff)
}

// idle is a snapshot of a machine on which nothing goes on and no program is
// loaded.
func (n *Node) idle() snapshot {
	n.tb.Helper()
	before := n.Snapshot()
	for began := time.Now(); time.Since(began) < settleFor; {
		time.Sleep(50 * time.Millisecond)
		now := n.Snapshot()
		if now.isUnguarded() && cmp.Equal(before, now) {
			return now
		}
		before = now
	}
	n.tb.Fatalf("the machine does not come to rest: %v", before.Objects)
	return before
}

// isUnguarded tells that nothing is loaded, and that the agent has left the masters too.
func (s *snapshot) isUnguarded() bool {
	return len(s.Objects) == 0 && len(s.Pins) == 0 && s.Descriptors["anon_inode:bpf-map"] == 0
}

// with is a snapshot and a pod that was made since.
func (n *Node) with(s snapshot, p *Pod) snapshot {
	n.tb.Helper()
	s.Links = maps.Clone(s.Links)
	s.Links["pod "+p.Name] = n.linksOf(p.Host)
	return s
}

func (n *Node) linksOf(h *lan.Host) []string {
	n.tb.Helper()
	links, err := netns.Dump(h.Netlink().LinkList)
	if err != nil {
		n.tb.Fatalf("listing the links of %s: %v", h.Path(), err)
	}
	var all []string
	for _, l := range links {
		all = append(all, n.describe(h, l))
	}
	return append(all, n.routesOf(h)...)
}

func (n *Node) describe(h *lan.Host, l netlink.Link) string {
	n.tb.Helper()
	a := l.Attrs()
	addresses, err := netns.Dump(func() ([]netlink.Addr, error) { return h.Netlink().AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		n.tb.Fatalf("listing the addresses of %s: %v", a.Name, err)
	}
	text := fmt.Sprintf("%d %s %s %s %s mtu %d promiscuity %d", a.Index, a.Name, l.Type(), a.HardwareAddr, a.Flags&^net.FlagRunning, a.MTU, a.Promisc)
	for _, address := range addresses {
		text += " " + address.IPNet.String()
	}
	return text
}

func (n *Node) routesOf(h *lan.Host) []string {
	n.tb.Helper()
	routes, err := netns.Dump(func() ([]netlink.Route, error) { return h.Netlink().RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		n.tb.Fatalf("listing the routes of %s: %v", h.Path(), err)
	}
	var all []string
	for _, r := range routes {
		all = append(all, fmt.Sprintf("route %s via %s on %d", r.Dst, r.Gw, r.LinkIndex))
	}
	slices.Sort(all)
	return all
}

// walk says something of each file below a directory; one that vanishes
// meanwhile is not there.
func (n *Node) walk(dir string, say func(path string, entry fs.DirEntry) string) []string {
	n.tb.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if text := say(path, entry); text != "" && path != dir {
			all = append(all, text)
		}
		return nil
	})
	if err != nil {
		n.tb.Fatal(err)
	}
	return all
}

// lasting are files that say nothing of an attachment: locks, and where the
// search for a free address begins.
var lasting = regexp.MustCompile(`/(lock|last_reserved_ip\.\d+)$`)

func (n *Node) filesIn(dir string) []string {
	n.tb.Helper()
	return n.walk(n.path(dir), func(path string, entry fs.DirEntry) string {
		data, err := os.ReadFile(path)
		if entry.IsDir() || lasting.MatchString(path) || err != nil {
			return ""
		}
		return fmt.Sprintf("%s %.8x", path, sha256.Sum256(data))
	})
}

// loaded are the programs that bear the node's namespace in their metadata, which
// is a map of theirs, and all of their maps.
func (n *Node) loaded() []string {
	n.tb.Helper()
	found := map[string]bool{}
	var id ebpf.ProgramID
	for {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			n.tb.Fatalf("listing the programs: %v", err)
		}
		id = next
		for _, text := range n.objectsOf(id) {
			found[text] = true
		}
	}
	for _, text := range n.loadedMaps() {
		found[text] = true
	}
	all := make([]string, 0, len(found))
	for text := range found {
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

// objectsOf is a program of the node's and its maps; one that ends meanwhile is
// not there.
func (n *Node) objectsOf(id ebpf.ProgramID) []string {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil || !strings.HasPrefix(info.Name, "weir_") {
		return nil
	}
	maps, _ := info.MapIDs()
	ours := false
	all := []string{fmt.Sprintf("program %d %s", id, info.Name)}
	for _, m := range maps {
		name, mine := n.mapOf(m)
		ours = ours || mine
		all = append(all, name)
	}
	if !ours {
		return nil
	}
	return all
}

// loadedMaps are the maps that bear the node's namespace, whether a program has
// them or not.
func (n *Node) loadedMaps() []string {
	n.tb.Helper()
	var all []string
	var id ebpf.MapID
	for {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, fs.ErrNotExist) {
			return all
		}
		if err != nil {
			n.tb.Fatalf("listing the maps: %v", err)
		}
		id = next
		if name, mine := n.mapOf(id); mine {
			all = append(all, name)
		}
	}
}

// mapOf names a map and tells whether it holds the metadata of a pod of the node.
func (n *Node) mapOf(id ebpf.MapID) (name string, mine bool) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return "", false
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return "", false
	}
	name = fmt.Sprintf("map %d %s", id, info.Name)
	if info.Type != ebpf.Array || info.MaxEntries != 1 || !strings.HasSuffix(info.Name, ".rodata") {
		return name, false
	}
	value, err := m.LookupBytes(uint32(0))
	return name, err == nil && bytes.Contains(value, []byte(n.namespace+"/"))
}

var inode = regexp.MustCompile(`:\[\d+\]$`)

func (n *Node) descriptors() map[string]int {
	n.tb.Helper()
	if n.agent == nil {
		return nil
	}
	dir := fmt.Sprintf("/proc/%d/fd", n.agent.pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		n.tb.Fatal(err)
	}
	all := map[string]int{}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		// What the library keeps of the kernel's types it opens when it first needs it;
		// a manifest may be read at this moment.
		if err != nil || target == "anon_inode:btf" || strings.HasPrefix(target, n.path("manifests/")) {
			continue
		}
		all[inode.ReplaceAllString(target, "")]++
	}
	return all
}
