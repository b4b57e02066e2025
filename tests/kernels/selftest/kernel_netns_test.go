// SPDX-License-Identifier: Apache-2.0

//go:build netns

package selftest

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestKernelsVersionIsTheOneAskedFor(t *testing.T) {
	t.Parallel()
	want := os.Getenv("WEIR_KERNEL")
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	got := unix.ByteSliceToString(name.Release[:])
	if want == "" || !strings.HasPrefix(got, want+".") {
		t.Errorf("kernel %s, want %q", got, want)
	}
}

func TestKernelsFileSystemsAreMounted(t *testing.T) {
	t.Parallel()
	tests := []struct {
		path string
		kind int64
	}{
		{"/proc", unix.PROC_SUPER_MAGIC},
		{"/sys", unix.SYSFS_MAGIC},
		{"/sys/fs/bpf", unix.BPF_FS_MAGIC},
		{"/sys/fs/cgroup", unix.CGROUP2_SUPER_MAGIC},
		{"/sys/kernel/tracing", unix.TRACEFS_MAGIC},
		{"/sys/kernel/debug", unix.DEBUGFS_MAGIC},
		{"/dev", unix.TMPFS_MAGIC},
		{"/run", unix.TMPFS_MAGIC},
		{"/tmp", unix.TMPFS_MAGIC},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			t.Parallel()
			var stat unix.Statfs_t
			if err := unix.Statfs(tt.path, &stat); err != nil {
				t.Fatal(err)
			}
			if stat.Type != tt.kind {
				t.Errorf("file system %#x, want %#x", stat.Type, tt.kind)
			}
		})
	}
}

func TestKernelsTypeInformationIsThere(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Error(err)
	}
}

func TestKernelsRandomNumbersDoNotWait(t *testing.T) {
	t.Parallel()
	started := time.Now()
	rand.Text()
	if waited := time.Since(started); waited > time.Second {
		t.Errorf("random numbers took %v", waited)
	}
}

func TestKernelsLoopbackIsUp(t *testing.T) {
	t.Parallel()
	link, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		t.Error("lo is down")
	}
}

// enter puts the test into a new network namespace, with a veth pair m0 and m1.
func enter(t *testing.T) netlink.Link {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	inside, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A thread that cannot go back stays locked and ends with its goroutine.
		if err := netns.Set(home); err != nil {
			t.Errorf("going back to the first namespace: %v", err)
		} else {
			runtime.UnlockOSThread()
		}
		_, _ = inside.Close(), home.Close()
	})
	return create(t, &netlink.Veth{LinkAttrs: attrs("m0", 0), PeerName: "m1"})
}

func attrs(name string, master int) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex = name, master
	return a
}

func create(t *testing.T, link netlink.Link) netlink.Link {
	t.Helper()
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatalf("creating %s %s: %v", link.Type(), link.Attrs().Name, err)
	}
	made, err := netlink.LinkByName(link.Attrs().Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(made); err != nil {
		t.Fatalf("setting %s up: %v", link.Attrs().Name, err)
	}
	return made
}

func TestKernelsLinksOfEachType(t *testing.T) {
	tests := []struct {
		name string
		link func(attrs netlink.LinkAttrs) netlink.Link
	}{
		{"macvlan bridge", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}
		}},
		{"macvlan private", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_PRIVATE}
		}},
		{"macvlan vepa", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_VEPA}
		}},
		{"macvlan passthru", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_PASSTHRU}
		}},
		{"ipvlan l2", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: a, Mode: netlink.IPVLAN_MODE_L2}
		}},
		{"ipvlan l3", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: a, Mode: netlink.IPVLAN_MODE_L3}
		}},
		{"ipvlan l3s", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: a, Mode: netlink.IPVLAN_MODE_L3S}
		}},
		{"vlan", func(a netlink.LinkAttrs) netlink.Link { return &netlink.Vlan{LinkAttrs: a, VlanId: 7} }},
		{"dummy", func(a netlink.LinkAttrs) netlink.Link {
			a.ParentIndex = 0
			return &netlink.Dummy{LinkAttrs: a}
		}},
		{"bridge", func(a netlink.LinkAttrs) netlink.Link {
			a.ParentIndex = 0
			return &netlink.Bridge{LinkAttrs: a}
		}},
		{"ifb", func(a netlink.LinkAttrs) netlink.Link {
			a.ParentIndex = 0
			return &netlink.Ifb{LinkAttrs: a}
		}},
		{"vxlan", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.Vxlan{LinkAttrs: a, VtepDevIndex: a.ParentIndex, VxlanId: 7, Port: 4789}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			master := enter(t)
			link := create(t, tt.link(attrs("net1", master.Attrs().Index)))
			if want, _, _ := strings.Cut(tt.name, " "); link.Type() != want {
				t.Errorf("type %s, want %s", link.Type(), want)
			}
		})
	}
}

func TestKernelsInterfacesAtFirst(t *testing.T) {
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name())
	}
	if got := strings.Join(names, " "); got != "eth0 eth1 eth2 lo" { // three network cards
		t.Errorf("interfaces %s", got)
	}
}

func TestKernelsQdiscsOfEachKind(t *testing.T) {
	tests := []struct {
		name  string
		qdisc func(attrs netlink.QdiscAttrs) netlink.Qdisc
	}{
		{"clsact", func(a netlink.QdiscAttrs) netlink.Qdisc {
			a.Parent, a.Handle = netlink.HANDLE_CLSACT, netlink.MakeHandle(0xffff, 0)
			return &netlink.GenericQdisc{QdiscAttrs: a, QdiscType: "clsact"}
		}},
		{"fq", func(a netlink.QdiscAttrs) netlink.Qdisc { return netlink.NewFq(a) }},
		{"htb", func(a netlink.QdiscAttrs) netlink.Qdisc { return netlink.NewHtb(a) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			link := enter(t)
			base := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}
			if err := netlink.QdiscAdd(tt.qdisc(base)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKernelsPacketSocketReceives(t *testing.T) {
	enter(t)
	peer, err := netlink.LinkByName("m1")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		t.Fatal(err)
	}
	sender, receiver := listen(t, "m0"), listen(t, "m1")
	frame := append([]byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // to all
		0x02, 0, 0, 0, 0, 1,
		0x88, 0xb5, // IEEE 802 local experimental
	}, []byte("weir")...)
	got := make([]byte, len(frame))
	// The kernel may take a moment to give an interface that came up its queue, and
	// drops what is sent before.
	for range 50 {
		if _, err := sender.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])}); err != nil {
			t.Fatal(err)
		}
		if err := receiver.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := receiver.ReadFrom(got); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	if string(got) != string(frame) {
		t.Errorf("received % x, want % x", got, frame)
	}
}

func listen(t *testing.T, name string) *packet.Conn {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	nic := &net.Interface{Index: link.Attrs().Index, Name: name}
	conn, err := packet.Listen(nic, packet.Raw, 0x88b5, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
