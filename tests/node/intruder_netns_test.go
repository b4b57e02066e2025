// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

// intrusion is what a process in a pod does to an interface, and what it then sends.
type intrusion struct {
	// Name is a key of intrusions.
	Name string
	// Index is that of the interface.
	Index int
	// Wait is how long to wait before anything is sent.
	Wait time.Duration
	// Frames are sent through the interface, and through one that was made on it.
	Frames [][]byte
}

const intruderName = "WEIR_TEST_INTRUDER"

// foreignMAC is that of nobody on the LAN; foreignAddress is nobody's address.
const (
	foreignMAC     = "02:00:00:00:00:09"
	foreignAddress = "192.168.122.99"
)

func isIntruder() bool { return os.Getenv(intruderName) != "" }

// playIntruder does what its standard input says.
func playIntruder() int {
	var i intrusion
	err := json.NewDecoder(os.Stdin).Decode(&i)
	if err == nil {
		err = i.do()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", i.Name, err)
		return 1
	}
	return 0
}

func (i *intrusion) do() error {
	link, err := netlink.LinkByIndex(i.Index)
	if err != nil {
		return err
	}
	made, err := intrusions()[i.Name](link)
	if err != nil {
		return err
	}
	time.Sleep(i.Wait)
	through := []int{i.Index}
	if made != "" {
		child, err := netlink.LinkByName(made)
		if err != nil {
			return err
		}
		through = append(through, child.Attrs().Index)
	}
	for _, index := range through {
		if err := sendThrough(index, i.Frames); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	return nil
}

func sendThrough(index int, frames [][]byte) error {
	if len(frames) == 0 {
		return nil
	}
	ifi, err := net.InterfaceByIndex(index)
	if err != nil {
		return err
	}
	conn, err := packet.Listen(ifi, packet.Raw, 0, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, frame := range frames {
		if _, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: ifi.HardwareAddr}); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
	return nil
}

// intrusions are what a pod with CAP_NET_ADMIN may try; each returns the name of an
// interface that it has made on the given one.
func intrusions() map[string]func(netlink.Link) (string, error) {
	nothing := func(do func(netlink.Link) error) func(netlink.Link) (string, error) {
		return func(l netlink.Link) (string, error) { return "", do(l) }
	}
	return map[string]func(netlink.Link) (string, error){
		"delete the qdisc":   nothing(deleteQdisc),
		"delete the filters": nothing(deleteFilters),
		"put a filter first": nothing(putFilterFirst),
		"rename": nothing(func(l netlink.Link) error {
			return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, "other"), netlink.LinkSetUp(l))
		}),
		"set the MAC": nothing(func(l netlink.Link) error {
			mac, err := net.ParseMAC(foreignMAC)
			return errors.Join(err, netlink.LinkSetDown(l), netlink.LinkSetHardwareAddr(l, mac), netlink.LinkSetUp(l))
		}),
		"add an address": nothing(func(l netlink.Link) error {
			return netlink.AddrAdd(l, &netlink.Addr{IPNet: mustIPNet(foreignAddress + "/24")})
		}),
		"be promiscuous": nothing(netlink.SetPromiscOn),
		"move the MAC filter": nothing(func(l netlink.Link) error {
			return errors.Join(netlink.LinkSetAllmulticastOn(l), netlink.LinkSetMTU(l, 1400))
		}),
		"make a macvlan on it": func(l netlink.Link) (string, error) {
			return "child", onIt(&netlink.Macvlan{LinkAttrs: childOf(l), Mode: netlink.MACVLAN_MODE_BRIDGE})
		},
		"make a VLAN on it": func(l netlink.Link) (string, error) {
			return "child", onIt(&netlink.Vlan{LinkAttrs: childOf(l), VlanId: 7})
		},
		"make it a port of a bridge": func(l netlink.Link) (string, error) {
			bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "child"}}
			return "child", errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetMaster(l, bridge), netlink.LinkSetUp(bridge))
		},
		"delete it": nothing(netlink.LinkDel),
	}
}

func childOf(l netlink.Link) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "child", l.Attrs().Index
	return attrs
}

func onIt(child netlink.Link) error {
	return errors.Join(netlink.LinkAdd(child), netlink.LinkSetUp(child))
}

// deleteQdisc is no error where the agent has not left one.
func deleteQdisc(l netlink.Link) error {
	err := netlink.QdiscDel(clsact(l))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func deleteFilters(l netlink.Link) error {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netns.Dump(func() ([]netlink.Filter, error) { return (&netlink.Handle{}).FilterList(l, parent) })
		if err != nil {
			return err
		}
		for _, f := range filters {
			if err := netlink.FilterDel(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// putFilterFirst lets all packets pass by classic BPF, for which nobody needs CAP_BPF. The
// kernel puts a new filter before those of its priority.
func putFilterFirst(l netlink.Link) error {
	if err := netlink.QdiscAdd(clsact(l)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return addClassicFilter(l.Attrs().Index)
}

// intrude has a process with CAP_NET_ADMIN and CAP_NET_RAW, and no other right, do
// something in a pod.
func (p *Pod) intrude(t *testing.T, i intrusion) {
	t.Helper()
	input, err := json.Marshal(i)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var complaints bytes.Buffer
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), intruderName+"=1")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &complaints
	process, err := launch(p.Host, cmd, withOnly(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW))
	if err != nil {
		t.Fatal(err)
	}
	<-process.done
	if !cmd.ProcessState.Success() {
		t.Fatalf("the intruder: %s: %s", cmd.ProcessState, complaints.String())
	}
}

// withOnly leaves capabilities to the thread, and so to what it starts, and no other.
func withOnly(capabilities ...uintptr) func() error {
	var others []uintptr
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		kept := false
		for _, k := range capabilities {
			kept = kept || k == c
		}
		if !kept {
			others = append(others, c)
		}
	}
	return without(others...)
}
