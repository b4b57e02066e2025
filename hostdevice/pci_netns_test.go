// SPDX-License-Identifier: Apache-2.0

//go:build netns

package hostdevice

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// The VM's network cards, on one hub. The first two are virtio's, the third is itself
// what is on the PCI bus.
const (
	card      = "0000:00:10.0"
	otherCard = "0000:00:11.0"
	plainCard = "0000:00:12.0"
)

// inRoot runs in the first network namespace, to which the kernel gives hardware
// back.
func inRoot(t *testing.T) *netns.Namespace {
	t.Helper()
	host, err := netns.Current()
	must(t, err)
	t.Cleanup(func() { _ = host.Close() })
	return host
}

func nameOfCard(t *testing.T, host *netns.Namespace, bus string) string {
	t.Helper()
	link, err := parse(t, `{"pciBusID":"`+bus+`"}`).find(host)
	must(t, err)
	return link.Attrs().Name
}

// configureCard gives it all that is to be restored, until the test ends: a MAC that
// is not the one burnt in among it.
func configureCard(t *testing.T, host *netns.Namespace, name string) {
	t.Helper()
	h := host.Netlink()
	link, err := h.LinkByName(name)
	must(t, err)
	index, burnt := link.Attrs().Index, link.Attrs().PermHWAddr
	must(t,
		h.LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0x5e, 0, 0x53, 0x99}),
		h.LinkSetMTU(link, 1400),
		h.LinkSetAlias(link, "the press"),
		h.LinkAddAltName(link, "press0"),
		h.LinkSetUp(link),
		h.AddrAdd(link, &netlink.Addr{IPNet: prefix(t, "192.0.2.7/24")}),
		h.AddrAdd(link, &netlink.Addr{IPNet: prefix(t, "2001:db8::7/64"), Flags: unix.IFA_F_NODAD}),
		h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: prefix(t, "10.0.0.0/8"), Gw: net.IP{192, 0, 2, 1}}),
		addressed(host, index),
	)
	t.Cleanup(func() {
		for _, err := range []error{
			h.LinkSetDown(link), h.LinkSetHardwareAddr(link, burnt), h.LinkSetMTU(link, 1500), h.LinkSetAlias(link, ""),
			h.LinkDelAltName(link, "press0"),
			h.AddrDel(link, &netlink.Addr{IPNet: prefix(t, "192.0.2.7/24")}),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// dies ends the pod, and with it its namespace.
func dies(t *testing.T, sandbox *lan.Host, pod *netns.Namespace) {
	t.Helper()
	_ = pod.Close()
	sandbox.Remove()
}

// A card is found by whatever names it and is back as it was, after DEL and after the
// pod's namespace has ended, whatever the pod did to it.
func TestKernelsCards(t *testing.T) {
	host := inRoot(t)
	name := nameOfCard(t, host, card)
	path, err := filepath.EvalSymlinks(filepath.Join(pciDevices, card))
	must(t, err)
	byBus := `{"pciBusID":"` + card + `"}`
	alive := func(*testing.T, *lan.Host, *netns.Namespace) bool { return true }
	gone := func(t *testing.T, sandbox *lan.Host, pod *netns.Namespace) bool {
		dies(t, sandbox, pod)
		return false
	}
	tests := []struct {
		name, config string
		inPod        func(*testing.T, *lan.Host, *netns.Namespace) bool
	}{
		{"pciBusID", byBus, alive},
		{"deviceID", `{"pciBusID":"` + otherCard + `","runtimeConfig":{"deviceID":"` + card + `"}}`, alive},
		{"hwaddr", `{"hwaddr":"02:00:5e:00:53:99"}`, alive},
		{"device", `{"device":"` + name + `"}`, alive},
		{"alternative name", `{"device":"press0"}`, alive},
		{"kernelpath", `{"kernelpath":"` + path + `"}`, alive},
		{"a MAC asked for", `{"pciBusID":"` + card + `","runtimeConfig":{"mac":"02:00:5e:00:53:77"}}`, alive},
		{"the namespace ends", byBus, gone},
		{"the namespace ends, and the name is taken", byBus, func(t *testing.T, sandbox *lan.Host, pod *netns.Namespace) bool {
			must(t, host.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "net1"}}))
			t.Cleanup(func() {
				must(t, host.Netlink().LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "net1"}}))
			})
			return gone(t, sandbox, pod)
		}},
		{"the namespace ends, and the pod took the mark off", byBus, func(t *testing.T, sandbox *lan.Host, pod *netns.Namespace) bool {
			link := sandbox.Link("net1")
			must(t, pod.Netlink().LinkSetDown(link), pod.Netlink().LinkSetAlias(link, ""), pod.Netlink().LinkSetName(link, name))
			return gone(t, sandbox, pod)
		}},
		{"the namespace ends, and the pod took names", byBus, func(t *testing.T, sandbox *lan.Host, pod *netns.Namespace) bool {
			link := sandbox.Link("net1")
			must(t, pod.Netlink().LinkDelAltName(link, "press0"), pod.Netlink().LinkAddAltName(link, name))
			return gone(t, sandbox, pod)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			configureCard(t, host, name)
			before := looks(t, host, name)
			c := parse(t, test.config)
			must(t, c.Validate(host))
			state := saved(t, c, host)
			if string(state.Permanent) == string(state.MAC) || len(state.Permanent) != 6 || state.Parent == "" {
				t.Errorf("the card is known by %+v", state)
			}
			sandbox := lan.NewHost(t)
			pod := open(t, sandbox)
			_, err := c.Move(host, pod, "net1", state)
			must(t, err, Check(pod, "net1", state))
			if err := parse(t, byBus).Validate(host); !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), "another pod has it") {
				t.Errorf("a card that a pod has: %v", err)
			}
			must(t, pod.Netlink().LinkSetHardwareAddr(sandbox.Link("net1"), net.HardwareAddr{2, 0, 0, 0, 0, 9}))
			sandbox.Up("net1")
			if !test.inPod(t, sandbox, pod) {
				pod = nil
			}
			for range 2 {
				must(t, Restore(host, pod, "net1", state))
				if diff := cmp.Diff(before, looks(t, host, name)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

func linkOf(t *testing.T, host *netns.Namespace, name string) netlink.Link {
	t.Helper()
	link, err := netif.Find(host, name)
	must(t, err)
	return link
}

// A card is found in the namespace of a node whose sysfs is another's, and not in one
// that it is not in.
func TestKernelsCardOfANodeInANamespace(t *testing.T) {
	root := inRoot(t)
	name := nameOfCard(t, root, card)
	path, err := filepath.EvalSymlinks(filepath.Join(pciDevices, card))
	must(t, err)
	machine := lan.NewHost(t)
	node := open(t, machine)
	state := saved(t, parse(t, `{"device":"`+name+`"}`), root)
	must(t, root.Netlink().LinkSetNsFd(linkOf(t, root, name), node.Fd()))
	t.Cleanup(func() { must(t, Restore(root, node, name, state)) })
	for _, config := range []string{
		`{"pciBusID":"` + card + `"}`, `{"runtimeConfig":{"deviceID":"` + card + `"}}`, `{"kernelpath":"` + path + `"}`,
		`{"kernelpath":"` + linkedDevice(t, path) + `"}`,
	} {
		c := parse(t, config)
		if err := c.Validate(root); !errors.Is(err, ErrElsewhere) {
			t.Errorf("%s where it is not: %v", config, err)
		}
		before := looks(t, node, name)
		there, pod := saved(t, c, node), open(t, lan.NewHost(t))
		_, err := c.Move(node, pod, "net1", there)
		must(t, err, Restore(node, pod, "net1", there))
		if diff := cmp.Diff(before, looks(t, node, name)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// linkedDevice is the virtio device of the card at path.
func linkedDevice(t *testing.T, path string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(path, "virtio*"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return found[0]
}

// A card that has left is nobody's to restore, and one that is held on to is told.
func TestKernelsCardThatDoesNotComeBack(t *testing.T) {
	host := inRoot(t)
	c := parse(t, `{"pciBusID":"`+otherCard+`"}`)
	path, err := filepath.EvalSymlinks(filepath.Join(pciDevices, otherCard))
	must(t, err)
	device := filepath.Base(linkedDevice(t, path))
	name := nameOfCard(t, host, otherCard)
	state := saved(t, c, host)
	pod := open(t, lan.NewHost(t))
	_, err = c.Move(host, pod, "net1", state)
	must(t, err)
	if err := Restore(host, nil, "net1", state); !errors.Is(err, ErrElsewhere) {
		t.Errorf("held on to: %v", err)
	}
	const driver = "/sys/bus/virtio/drivers/virtio_net"
	must(t, os.WriteFile(driver+"/unbind", []byte(device), 0))
	t.Cleanup(func() {
		must(t, os.WriteFile(driver+"/bind", []byte(device), 0))
		for range 100 {
			if link, err := c.find(host); err == nil {
				if link.Attrs().Name != name {
					must(t, host.Netlink().LinkSetName(link, name))
				}
				return
			}
			time.Sleep(interval)
		}
		t.Error("the card is not found any more")
	})
	if err := c.Validate(host); !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), "virtio-pci") {
		t.Errorf("without an interface: %v", err)
	}
	for _, in := range []*netns.Namespace{pod, nil} {
		if err := Restore(host, in, "net1", state); err != nil {
			t.Errorf("gone: %v", err)
		}
	}
}

// A card that is itself on the PCI bus is found there.
func TestKernelsPlainCard(t *testing.T) {
	host := inRoot(t)
	name := nameOfCard(t, host, plainCard)
	path, err := filepath.EvalSymlinks(filepath.Join(pciDevices, plainCard))
	must(t, err)
	configureCard(t, host, name)
	before := looks(t, host, name)
	for _, config := range []string{
		`{"pciBusID":"` + plainCard + `"}`, `{"runtimeConfig":{"deviceID":"` + plainCard + `"}}`, `{"kernelpath":"` + path + `"}`,
	} {
		c := parse(t, config)
		must(t, c.Validate(host))
		state, sandbox := saved(t, c, host), lan.NewHost(t)
		if state.Parent != "pci/"+plainCard {
			t.Errorf("the card is known by %+v", state)
		}
		pod := open(t, sandbox)
		_, err := c.Move(host, pod, "net1", state)
		must(t, err)
		isStranded(t, state, host, false)
		dies(t, sandbox, pod)
		awaitStranded(t, state, host)
		must(t, Restore(host, nil, "net1", state))
		if diff := cmp.Diff(before, looks(t, host, name)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		isStranded(t, state, host, false)
	}
}

func isStranded(t *testing.T, state *Saved, host *netns.Namespace, want bool) {
	t.Helper()
	if got, err := state.IsStranded(host); got != want || err != nil {
		t.Errorf("stranded: %t, %v; want %t", got, err, want)
	}
}

func awaitStranded(t *testing.T, state *Saved, host *netns.Namespace) {
	t.Helper()
	for deadline := time.Now().Add(returnTimeout); time.Now().Before(deadline); time.Sleep(interval) {
		if stranded, err := state.IsStranded(host); stranded || err != nil {
			break
		}
	}
	isStranded(t, state, host, true)
}

// Two pods talk from card to card.
func TestKernelsCardsTalk(t *testing.T) {
	host := inRoot(t)
	pods := map[string]*lan.Host{card: lan.NewHost(t), otherCard: lan.NewHost(t)}
	addresses := map[string]string{card: "198.51.100.1", otherCard: "198.51.100.2"}
	for bus, sandbox := range pods {
		c := parse(t, `{"pciBusID":"`+bus+`"}`)
		state, pod := saved(t, c, host), open(t, sandbox)
		if _, err := c.Move(host, pod, "net1", state); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := Restore(host, pod, "net1", state); err != nil {
				t.Error(err)
			}
		})
		sandbox.Address("net1", addresses[bus]+"/24")
		sandbox.Up("net1")
	}
	if got := pods[card].Ping(t.Context(), addresses[otherCard], 3); got != 3 {
		t.Errorf("%d of 3 pings were answered", got)
	}
}
