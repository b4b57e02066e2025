// SPDX-License-Identifier: Apache-2.0

//go:build netns

package netns_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

func mustOpen(t *testing.T, path string) *netns.Namespace {
	t.Helper()
	n, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func mustCurrent(t *testing.T) *netns.Namespace {
	t.Helper()
	n, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func TestNetnsNetlinkIsInside(t *testing.T) {
	t.Parallel()
	a, b := lan.NewHost(t), lan.NewHost(t)
	lan.Join(t, a, "inside0", b, "other0")
	n := mustOpen(t, a.Path())
	if _, err := n.Netlink().LinkByName("inside0"); err != nil {
		t.Errorf("inside0: %v", err)
	}
	if _, err := n.Netlink().LinkByName("other0"); !errors.As(err, new(netlink.LinkNotFoundError)) {
		t.Errorf("other0, which is elsewhere: %v", err)
	}
}

func TestNetnsSame(t *testing.T) {
	t.Parallel()
	host := lan.NewHost(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(host.Path(), link); err != nil {
		t.Fatal(err)
	}
	n := mustOpen(t, host.Path())
	if !n.Same(mustOpen(t, link)) {
		t.Error("one namespace by two paths is not the same")
	}
	if n.Same(mustOpen(t, lan.NewHost(t).Path())) || n.Same(mustCurrent(t)) {
		t.Error("another namespace is the same")
	}
	if n.Path() != host.Path() {
		t.Errorf("Path() = %q, want %q", n.Path(), host.Path())
	}
}

// A caller on a thread that is inside a pod still gets the process's own.
func TestNetnsCurrentFromInsideAnother(t *testing.T) {
	t.Parallel()
	own, pod := mustCurrent(t), mustOpen(t, lan.NewHost(t).Path())
	err := pod.Do(func() error {
		current, err := netns.Current()
		if err != nil {
			return err
		}
		defer current.Close()
		if !current.Same(own) {
			return errors.New("it is the pod's")
		}
		return nil
	})
	if err != nil {
		t.Errorf("Current inside a pod: %v", err)
	}
}

func TestNetnsDoFromManyGoroutines(t *testing.T) {
	t.Parallel()
	host := lan.NewHost(t)
	lan.Join(t, host, "inside0", lan.NewHost(t), "other0")
	n := mustOpen(t, host.Path())
	var group errgroup.Group
	for range 50 {
		group.Go(func() error {
			return n.Do(func() error {
				_, err := os.Stat("/proc/sys/net/ipv4/conf/inside0")
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	want := errors.New("from fn")
	if err := n.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Do returned %v, want %v", err, want)
	}
}

func TestNetnsOutlivesItsPath(t *testing.T) {
	t.Parallel()
	host := lan.NewHost(t)
	n := mustOpen(t, host.Path())
	host.Remove()
	if _, err := n.Netlink().LinkByName("lo"); err != nil {
		t.Errorf("lo, after the path was removed: %v", err)
	}
	if _, err := netns.Open(host.Path()); !errors.Is(err, netns.ErrNotFound) {
		t.Errorf("opening the removed path: %v", err)
	}
}

func TestNetnsCloseTwice(t *testing.T) {
	t.Parallel()
	n := mustOpen(t, lan.NewHost(t).Path())
	for range 2 {
		if err := n.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	}
	if err := n.Do(func() error { return nil }); err == nil {
		t.Error("Do in a closed namespace succeeded")
	}
}
