// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/cni"
)

// An ADD after an ADD is refused and changes nothing, not even the counters.
func TestNetnsAddTwice(t *testing.T) {
	n := newNode(t)
	n.Network("lan", static())
	pod := n.Pod("web", selection)
	n.mustAdd(pod)
	n.awaitHook(pod)
	before := n.Snapshot()
	for range 2 {
		_, failure := n.Add(pod)
		if failure == nil {
			t.Fatal("ADD succeeded again")
		}
		checkFailure(t, failure, types.ErrInvalidEnvironmentVariables, "pod "+n.namespace+"/web", pod.ID, "DEL")
		n.mustBe(before)
	}
	n.mustCheck(pod)
	n.mustDel(pod)
}

// DEL succeeds for what is gone, whatever is gone, and leaves nothing.
func TestNetnsDel(t *testing.T) {
	tests := []struct {
		name string
		lose func(*Node, *Pod)
		// sandboxless is set when the runtime knows no namespace any more.
		sandboxless bool
	}{
		{name: "all is there", lose: func(*Node, *Pod) {}},
		{name: "the namespace is gone", lose: func(_ *Node, p *Pod) { p.Remove() }},
		{name: "the namespace is gone and not named", lose: func(_ *Node, p *Pod) { p.Remove() }, sandboxless: true},
		{name: "the namespace is not named", lose: func(*Node, *Pod) {}, sandboxless: true},
		{name: "pod and network are gone", lose: func(n *Node, _ *Pod) { n.forgetManifests() }},
		{name: "the interface is gone", lose: func(_ *Node, p *Pod) { _ = p.Netlink().LinkDel(p.Link("net1")) }},
		{name: "every interface is gone", lose: func(_ *Node, p *Pod) {
			_ = p.Netlink().LinkDel(p.Link("net1"))
			_ = p.Netlink().LinkDel(p.Link("eth0"))
		}},
		{name: "the pins are gone", lose: func(n *Node, p *Pod) {
			n.awaitHook(p) // which makes pins too
			removeAll(n.tb, n.bpfDir)
		}},
		{name: "the leases are gone", lose: func(n *Node, _ *Pod) { removeAll(n.tb, n.path("leases")) }},
		{name: "the network status is gone", lose: func(n *Node, _ *Pod) { removeAll(n.tb, n.path("state/network-status")) }},
		{name: "the record is gone", lose: func(n *Node, p *Pod) { n.loseRecord(p) }},
		{name: "the record is damaged", lose: func(n *Node, p *Pod) { n.damage(p) }},
		{name: "the record is gone, and the agent was killed", lose: func(n *Node, p *Pod) {
			n.loseRecord(p)
			n.Restart()
		}},
		{name: "the record, the namespace, pod and network are gone", lose: func(n *Node, p *Pod) {
			n.loseRecord(p)
			n.forgetManifests()
			p.Remove()
		}},
		{name: "all state is gone but the pins and the network", lose: func(n *Node, p *Pod) {
			n.loseRecord(p)
			removeAll(n.tb, n.path("state/results"))
		}},
		{name: "the record and the pins are gone", lose: func(n *Node, p *Pod) {
			n.awaitHook(p)
			n.loseRecord(p)
			removeAll(n.tb, n.bpfDir)
		}},
		{name: "the agent was killed", lose: func(n *Node, _ *Pod) { n.Restart() }},
	}
	n := newNode(t)
	warmUp(n)
	idle := n.idle()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n.within(t)
			network := n.unique("lan")
			n.Network(network, macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
			pod := n.Pod(n.unique("web"), network)
			before := n.with(idle, pod)
			n.mustAdd(pod)
			test.lose(n, pod)
			if !exists(pod.Path()) {
				delete(before.Links, "pod "+pod.Name)
			}
			for range 2 {
				del := n.of("DEL", pod)
				if test.sandboxless {
					del.netns = ""
				}
				if failure := second(n.Call(del)); failure != nil {
					t.Errorf("DEL: %v", failure)
				}
			}
			n.mustBe(before)
			n.forget()
		})
	}
}

// record is the file of a pod's record.
func (n *Node) record(p *Pod) string { return n.path("state/sandboxes/" + p.ID + ".json") }

func (n *Node) loseRecord(p *Pod) {
	n.tb.Helper()
	if err := os.Remove(n.record(p)); err != nil {
		n.tb.Fatal(err)
	}
}

// damage loses the second half of a pod's record.
func (n *Node) damage(p *Pod) {
	n.tb.Helper()
	info, err := os.Stat(n.record(p))
	if err == nil {
		err = os.Truncate(n.record(p), info.Size()/2)
	}
	if err != nil {
		n.tb.Fatal(err)
	}
}

// removeAll empties a directory.
func removeAll(tb testing.TB, dir string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			tb.Fatal(err)
		}
	}
}

// CHECK finds what differs from what ADD made and says what; it changes nothing,
// so that it succeeds again once all is as it was.
func TestNetnsCheck(t *testing.T) {
	address := &netlink.Addr{IPNet: mustIPNet(podAddress + "/24")}
	other := &netlink.Addr{IPNet: mustIPNet("192.168.122.99/24")}
	onLink := func(do func(*netlink.Handle, netlink.Link) error) func(*Pod) error {
		return func(p *Pod) error { return do(p.Netlink(), p.Link("net1")) }
	}
	tests := []struct {
		name         string
		tamper, mend func(*Pod) error // mend may be nil: nothing follows then
		want         []string
		// succeedsAnyway is set when CHECK has nothing to say.
		succeedsAnyway bool
	}{{
		name:   "the address is removed",
		tamper: onLink(func(h *netlink.Handle, l netlink.Link) error { return h.AddrDel(l, address) }),
		mend:   addressAndRoute(address),
		want:   []string{"net1", "address " + podAddress + "/24", "missing"},
	}, {
		name: "the address is another",
		tamper: onLink(func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(h.AddrDel(l, address), h.AddrAdd(l, other))
		}),
		mend: func(p *Pod) error {
			return errors.Join(p.Netlink().AddrDel(p.Link("net1"), other), addressAndRoute(address)(p))
		},
		want: []string{"net1", "address " + podAddress + "/24", "missing"},
	}, {
		name:           "an address more",
		tamper:         onLink(func(h *netlink.Handle, l netlink.Link) error { return h.AddrAdd(l, other) }),
		mend:           onLink(func(h *netlink.Handle, l netlink.Link) error { return h.AddrDel(l, other) }),
		succeedsAnyway: true,
	}, {
		name:   "the route is removed",
		tamper: onLink(func(h *netlink.Handle, l netlink.Link) error { return h.RouteDel(routeOn(l)) }),
		mend:   onLink(func(h *netlink.Handle, l netlink.Link) error { return h.RouteAdd(routeOn(l)) }),
		want:   []string{"net1", "route 198.51.100.0/24", "missing"},
	}, {
		name:   "the link is down",
		tamper: onLink(func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) }),
		mend: onLink(func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(h.LinkSetUp(l), h.RouteAdd(routeOn(l)))
		}),
		want: []string{"net1", "state", "down"},
	}, {
		name: "the link has another name",
		tamper: onLink(func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(h.LinkSetDown(l), h.LinkSetName(l, "old"), h.LinkSetUp(l))
		}),
		mend: func(p *Pod) error {
			l := p.Link("old")
			return errors.Join(p.Netlink().LinkSetDown(l), p.Netlink().LinkSetName(l, "net1"), p.Netlink().LinkSetUp(l),
				p.Netlink().RouteAdd(routeOn(l)))
		},
		want: []string{"net1", "interface", "missing"},
	}, {
		name:   "the link is gone",
		tamper: onLink(func(h *netlink.Handle, l netlink.Link) error { return h.LinkDel(l) }),
		want:   []string{"net1", "interface", "missing"},
	}}
	n := newNode(t)
	n.Network("lan", static())
	pod := n.Pod("web", selection)
	n.mustAdd(pod)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n.within(t)
			n.mustCheck(pod)
			if err := test.tamper(pod); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				n.expectCheck(t, pod, test.succeedsAnyway, test.want)
			}
			if test.mend == nil {
				return
			}
			if err := test.mend(pod); err != nil {
				t.Fatal(err)
			}
			n.mustCheck(pod)
		})
	}
	n.mustDel(pod)
	failure := n.Check(pod)
	if failure == nil {
		t.Fatal("CHECK succeeded after DEL")
	}
	checkFailure(t, failure, types.ErrUnknownContainer, pod.ID)
}

func (n *Node) expectCheck(t *testing.T, p *Pod, succeeds bool, want []string) {
	t.Helper()
	failure := n.Check(p)
	switch {
	case succeeds && failure != nil:
		t.Errorf("CHECK: %v", failure)
	case !succeeds && failure == nil:
		t.Error("CHECK succeeded")
	case !succeeds:
		checkFailure(t, failure, cni.CodeFailed, append(want, "pod "+n.namespace+"/"+p.Name, n.namespace+"/lan (net1)")...)
	}
}

// A guard that the node's administrator took off is back a moment later, where it was.
func TestNetnsCheckGuard(t *testing.T) {
	n, pod := newGuarded(t)
	if err := n.detach(pod); err != nil {
		t.Fatal(err)
	}
	n.await("the guard", func() bool { return n.Check(pod) == nil && n.restored(t, pod) > 0 })
	n.awaitHook(pod)
	n.mustCheck(pod)
	n.mustDel(pod)
}

// CHECK names pins that are gone, also to an agent that never saw them.
func TestNetnsCheckPins(t *testing.T) {
	n, pod := newGuarded(t)
	removeAll(t, n.bpfDir)
	for range 2 {
		n.expectCheck(t, pod, false, []string{"guard"})
		n.Restart()
	}
	n.mustDel(pod)
}

// newGuarded is a node with a pod whose net1 is guarded, on the hook to stay.
func newGuarded(t *testing.T) (*Node, *Pod) {
	t.Helper()
	n := newNode(t)
	n.Network("lan", static())
	pod := n.Pod("web", selection)
	n.mustAdd(pod)
	n.awaitHook(pod)
	n.mustCheck(pod)
	return n, pod
}

// detach takes the programs off net1 the way the node's administrator could: the
// pins of the links go, and the qdisc with the filters.
func (n *Node) detach(p *Pod) error {
	links, err := filepath.Glob(filepath.Join(n.bpfDir, "*", "link_*"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if err := os.Remove(link); err != nil {
			return err
		}
	}
	err = p.Netlink().QdiscDel(clsact(p.Link("net1")))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func clsact(l netlink.Link) netlink.Qdisc {
	return &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// GC takes away what the runtime does not list, and nothing else.
func TestNetnsGC(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
	warmUp(n)
	idle := n.idle()
	stays := n.Pod("stays", "lan")
	gone := []*Pod{n.Pod("gone", "lan"), n.Pod("lost", "lan")}
	n.mustAdd(stays)
	n.awaitHook(stays)
	before := n.Snapshot()
	for _, p := range gone {
		n.mustAdd(p)
	}
	gone[1].Remove()
	delete(before.Links, "pod lost")
	for range 2 {
		if failure := n.GC(stays); failure != nil {
			t.Errorf("GC: %v", failure)
		}
		n.mustBe(before)
		n.mustCheck(stays)
	}
	for _, p := range gone {
		n.mustDel(p)
	}
	if failure := n.GC(); failure != nil {
		t.Errorf("GC: %v", failure)
	}
	if all, err := n.Attachments(); err != nil || len(all) != 0 {
		t.Errorf("weirctl says %v, %v after GC of all", all, err)
	}
	for name, links := range n.with(idle, stays).Links {
		idle.Links[name] = links
	}
	delete(idle.Links, "pod lost")
	idle.Links["pod gone"] = n.linksOf(gone[0].Host)
	n.mustBe(idle)
}

// STATUS says whether the next ADD could work.
func TestNetnsStatus(t *testing.T) {
	n := newNode(t)
	n.plugin("failing", failing)
	if failure := n.Status(); failure != nil {
		t.Errorf("STATUS: %v", failure)
	}
	executed := func(kind string) call {
		c := call{command: "STATUS", config: n.config()}
		c.config["delegates"] = []any{object{"cniVersion": "1.1.0", "name": "default", "type": kind}}
		return c
	}
	if failure := second(n.Call(executed("failing"))); failure != nil {
		t.Errorf("STATUS with a plugin that is there: %v", failure)
	}
	failure := second(n.Call(executed("nosuch")))
	if failure == nil {
		t.Fatal("STATUS succeeded without the default network's plugin")
	}
	checkFailure(t, failure, types.ErrPluginNotAvailable, "default", `"nosuch"`)
	n.Kill()
	if failure = n.Status(); failure == nil {
		t.Fatal("STATUS succeeded without an agent")
	}
	checkFailure(t, failure, types.ErrTryAgainLater, n.socket(), "weir-agent")
}

func mustIPNet(prefix string) *net.IPNet {
	ip, network, err := net.ParseCIDR(prefix)
	if err != nil {
		return nil
	}
	network.IP = ip
	return network
}

// routeOn is the route of the network that static describes.
func routeOn(l netlink.Link) *netlink.Route {
	return &netlink.Route{LinkIndex: l.Attrs().Index, Dst: mustIPNet("198.51.100.0/24"), Gw: net.ParseIP(outsideAddress)}
}

// addressAndRoute puts back an address, and the route that went with it.
func addressAndRoute(address *netlink.Addr) func(*Pod) error {
	return func(p *Pod) error {
		l := p.Link("net1")
		if err := p.Netlink().AddrAdd(l, address); err != nil {
			return err
		}
		err := p.Netlink().RouteAdd(routeOn(l))
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
}
