// SPDX-License-Identifier: Apache-2.0

//go:build netns

package hostdevice

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// The VM's network cards, on one hub.
const (
	card      = "0000:00:10.0"
	otherCard = "0000:00:11.0"
)

// inRoot runs in the first network namespace, to which the kernel gives hardware
// back.
func inRoot(t *testing.T) *netns.Namespace {
	t.Helper()
	host, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	return host
}

// looksIn is what an operator sees of the card on the node.
func looksIn(t *testing.T, host *netns.Namespace, name string) []string {
	t.Helper()
	link, err := host.Netlink().LinkByName(name)
	if err != nil {
		return nil
	}
	a := link.Attrs()
	all := []string{a.Name, a.HardwareAddr.String(), a.Alias, (a.Flags & net.FlagUp).String()}
	addresses, err := addressesOf(host, link)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addresses {
		all = append(all, addr.IP.String())
	}
	return all
}

// A card is found by whatever names it, talks over its wire, and is back as it was
// after DEL, and after the pod's namespace has ended.
func TestKernelsCards(t *testing.T) {
	host := inRoot(t)
	link, err := parse(t, `{"pciBusID":"`+card+`"}`).find(host)
	if err != nil {
		t.Fatal(err)
	}
	name := link.Attrs().Name
	path, err := filepath.EvalSymlinks(filepath.Join(pciDevices, card))
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr("192.0.2.7/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Netlink().AddrAdd(link, address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Netlink().AddrDel(link, address) })
	tests := []struct {
		name, config string
		dies         bool
	}{
		{"pciBusID", `{"pciBusID":"` + card + `"}`, false},
		{"deviceID", `{"pciBusID":"` + otherCard + `","runtimeConfig":{"deviceID":"` + card + `"}}`, false},
		{"hwaddr", `{"hwaddr":"` + link.Attrs().HardwareAddr.String() + `"}`, false},
		{"device", `{"device":"` + name + `"}`, false},
		{"kernelpath", `{"kernelpath":"` + path + `"}`, false},
		{"the namespace ends", `{"pciBusID":"` + card + `"}`, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := looksIn(t, host, name)
			c := parse(t, test.config)
			if err := c.Validate(host); err != nil {
				t.Fatal(err)
			}
			state := saved(t, c, host)
			sandbox := lan.NewHost(t)
			pod := open(t, sandbox)
			if _, err := c.Move(host, pod, "net1", state); err != nil {
				t.Fatal(err)
			}
			if err := Check(pod, "net1", state); err != nil {
				t.Error(err)
			}
			if err := parse(t, `{"pciBusID":"`+card+`"}`).Validate(host); err == nil {
				t.Error("a card that a pod has was found free")
			}
			if err := pod.Netlink().LinkSetHardwareAddr(sandbox.Link("net1"), net.HardwareAddr{2, 0, 0, 0, 0, 9}); err != nil {
				t.Fatal(err)
			}
			sandbox.Up("net1")
			if test.dies {
				_ = pod.Close()
				sandbox.Remove()
				awaitHome(t, host, state)
				pod = nil
			}
			for range 2 {
				if err := Restore(host, pod, "net1", state); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, looksIn(t, host, name)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// awaitHome waits until the kernel has given the card back.
func awaitHome(t *testing.T, host *netns.Namespace, state *Saved) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		link, err := state.in(host)
		if err != nil {
			t.Fatal(err)
		}
		if link != nil {
			t.Logf("the card came back as %s, alias %q", link.Attrs().Name, link.Attrs().Alias)
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("the card does not come back")
		}
	}
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
