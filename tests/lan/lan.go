// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a network namespace that plays a machine or a pod. Its loopback is up.
type Host struct {
	tb     testing.TB
	path   string
	handle *netlink.Handle
	ns     ns.NetNS
}

// NewHost makes an empty network namespace, bound to a path of its own so that
// a CNI plugin can open it. It is removed when the test ends.
func NewHost(tb testing.TB) *Host {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "netns")
	if err := bindNewNamespace(path); err != nil {
		tb.Fatalf("making a network namespace (root is needed): %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !os.IsNotExist(err) && err != unix.EINVAL {
			tb.Errorf("unmounting %s: %v", path, err)
		}
	})
	h := &Host{tb: tb, path: path}
	h.open()
	h.Up("lo")
	return h
}

// Root is the machine's first network namespace, for a test that has the machine to
// itself: what it changes it has to change back.
func Root(tb testing.TB) *Host {
	tb.Helper()
	h := &Host{tb: tb, path: "/proc/1/ns/net"}
	h.open()
	return h
}

func bindNewNamespace(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		done <- unix.Mount(self, path, "", unix.MS_BIND, "")
	}()
	return <-done
}

func (h *Host) open() {
	h.tb.Helper()
	fd, err := netns.GetFromPath(h.path)
	if err != nil {
		h.tb.Fatalf("opening %s: %v", h.path, err)
	}
	defer fd.Close()
	if h.handle, err = netlink.NewHandleAt(fd, unix.NETLINK_ROUTE); err != nil {
		h.tb.Fatalf("netlink in %s: %v", h.path, err)
	}
	if h.ns, err = ns.GetNS(h.path); err != nil {
		h.tb.Fatalf("opening %s: %v", h.path, err)
	}
	h.tb.Cleanup(func() {
		h.handle.Close()
		_ = h.ns.Close()
	})
}

// Remove ends the namespace before the test does, as a runtime does that has
// lost its pod.
func (h *Host) Remove() {
	h.tb.Helper()
	if err := unix.Unmount(h.path, unix.MNT_DETACH); err != nil {
		h.tb.Fatalf("unmounting %s: %v", h.path, err)
	}
	if err := os.Remove(h.path); err != nil {
		h.tb.Fatal(err)
	}
	h.handle.Close()
	_ = h.ns.Close()
}

// Path is where the namespace is bound, as CNI_NETNS names it.
func (h *Host) Path() string { return h.path }

// Netlink is a netlink socket inside the namespace.
func (h *Host) Netlink() *netlink.Handle { return h.handle }

// Do runs fn on a thread inside the namespace.
func (h *Host) Do(fn func() error) {
	h.tb.Helper()
	if err := h.ns.Do(func(ns.NetNS) error { return fn() }); err != nil {
		h.tb.Fatalf("in %s: %v", h.path, err)
	}
}

// Link looks an interface of the host up.
func (h *Host) Link(name string) netlink.Link {
	h.tb.Helper()
	l, err := h.handle.LinkByName(name)
	if err != nil {
		h.tb.Fatalf("interface %s: %v", name, err)
	}
	return l
}

// Up sets interfaces of the host up.
func (h *Host) Up(names ...string) {
	h.tb.Helper()
	for _, name := range names {
		if err := h.handle.LinkSetUp(h.Link(name)); err != nil {
			h.tb.Fatalf("setting %s up: %v", name, err)
		}
	}
}

// Address adds addresses such as "192.0.2.1/24" or "2001:db8::1/64" to an
// interface; IPv6 ones are usable at once (no duplicate address detection).
func (h *Host) Address(name string, prefixes ...string) {
	h.tb.Helper()
	for _, p := range prefixes {
		a, err := netlink.ParseAddr(p)
		if err != nil {
			h.tb.Fatal(err)
		}
		if netip.MustParsePrefix(p).Addr().Is6() {
			a.Flags |= unix.IFA_F_NODAD
		}
		if err := h.handle.AddrAdd(h.Link(name), a); err != nil {
			h.tb.Fatalf("adding %s to %s: %v", p, name, err)
		}
	}
}

var pairs atomic.Uint32

// Join puts a veth pair between two hosts, its ends named and up.
func Join(tb testing.TB, a *Host, aName string, b *Host, bName string) {
	tb.Helper()
	n := pairs.Add(1)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("wa%d", n)
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("wb%d", n)}
	if err := a.handle.LinkAdd(pair); err != nil {
		tb.Fatalf("adding a veth pair: %v", err)
	}
	peer := a.Link(pair.PeerName)
	if err := a.handle.LinkSetNsFd(peer, int(b.ns.Fd())); err != nil {
		tb.Fatalf("moving %s: %v", pair.PeerName, err)
	}
	rename(tb, a, pair.Name, aName)
	rename(tb, b, pair.PeerName, bName)
	a.Up(aName)
	b.Up(bName)
}

// Hand gives an interface to another host, under a name there, and sets it up.
func (h *Host) Hand(name string, to *Host, as string) {
	h.tb.Helper()
	if err := h.handle.LinkSetNsFd(h.Link(name), int(to.ns.Fd())); err != nil {
		h.tb.Fatalf("moving %s: %v", name, err)
	}
	rename(h.tb, to, name, as)
	to.Up(as)
}

// SetMTU sets the MTU of an interface.
func (h *Host) SetMTU(name string, mtu int) {
	h.tb.Helper()
	if err := h.handle.LinkSetMTU(h.Link(name), mtu); err != nil {
		h.tb.Fatalf("setting the MTU of %s: %v", name, err)
	}
}

func rename(tb testing.TB, h *Host, from, to string) {
	tb.Helper()
	if err := h.handle.LinkSetName(h.Link(from), to); err != nil {
		tb.Fatalf("renaming %s to %s: %v", from, to, err)
	}
}

// Ping sends count echo requests from the host and reports how many were
// answered; it does not fail the test.
func (h *Host) Ping(ctx context.Context, addr string, count int) (answered int) {
	h.tb.Helper()
	var out []byte
	_ = h.ns.Do(func(ns.NetNS) error {
		cmd := exec.CommandContext(ctx, "ping", "-c", fmt.Sprint(count), "-W", "5", addr)
		out, _ = cmd.CombinedOutput()
		return nil
	})
	return repliesIn(string(out))
}
