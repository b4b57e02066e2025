// SPDX-License-Identifier: Apache-2.0

//go:build netns

package netns_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

const patience = 5 * time.Second

func watched(t *testing.T) (*lan.Host, *netns.Watch) {
	t.Helper()
	host := lan.NewHost(t)
	ns, err := netns.Open(host.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	watch, err := ns.Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = watch.Close() })
	return host, watch
}

// Interfaces that come, change and go are told, and so are qdiscs on them.
func TestNetnsWatch(t *testing.T) {
	host, watch := watched(t)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}
	if err := host.Netlink().LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	link := host.Link("a")
	index := link.Attrs().Index
	expect := func(what string) {
		t.Helper()
		for {
			changes, err := watch.Next(time.Now().Add(patience))
			if err != nil || len(changes.Interfaces) == 0 {
				t.Fatalf("%s: changes %v, error %v", what, changes, err)
			}
			if changes.Interfaces[index] {
				return
			}
		}
	}
	expect("it was made")
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"a qdisc", func() error { return host.Netlink().QdiscAdd(qdisc) }},
		{"a name", func() error { return host.Netlink().LinkSetName(link, "c") }},
		{"no qdisc", func() error { return host.Netlink().QdiscDel(qdisc) }},
		{"it went", func() error { return host.Netlink().LinkDel(link) }},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		expect(step.what)
	}
}

// What there is no room for is said to be lost.
func TestNetnsWatchThatIsOverrun(t *testing.T) {
	host, watch := watched(t)
	loopback := host.Link("lo")
	for range 2000 {
		if err := host.Netlink().LinkSetMTU(loopback, 65535); err != nil {
			t.Fatal(err)
		}
		if err := host.Netlink().LinkSetMTU(loopback, 65534); err != nil {
			t.Fatal(err)
		}
	}
	changes, err := watch.Next(time.Now().Add(patience))
	if err != nil || !changes.Lost {
		t.Errorf("changes %v, error %v", changes, err)
	}
}

func TestNetnsWatchEnds(t *testing.T) {
	_, watch := watched(t)
	ended := make(chan error, 1)
	go func() {
		_, err := watch.Next(time.Now().Add(patience))
		ended <- err
	}()
	time.Sleep(10 * time.Millisecond)
	if err := watch.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("error %v", err)
		}
	case <-time.After(patience):
		t.Error("it waits for more")
	}
}

func TestNetnsWatchOfWhatDoesNotChange(t *testing.T) {
	_, watch := watched(t)
	began := time.Now()
	for range 2 {
		changes, err := watch.Next(time.Now().Add(20 * time.Millisecond))
		if err != nil || changes.Lost || len(changes.Interfaces) > 0 {
			t.Errorf("changes %v, error %v", changes, err)
		}
	}
	if took := time.Since(began); took < 40*time.Millisecond {
		t.Errorf("it waited for %s", took)
	}
}
