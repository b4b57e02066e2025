// SPDX-License-Identifier: Apache-2.0

//go:build netns

package sockopt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// pod is a network namespace and its cookie.
type pod struct {
	*lan.Host
	cookie uint64
}

func newPod(t *testing.T) pod {
	t.Helper()
	h := lan.NewHost(t)
	ns, err := netns.Open(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	cookie, err := Cookie(ns)
	if err != nil {
		t.Fatal(err)
	}
	return pod{h, cookie}
}

// set sets an option of a new packet socket of the pod.
func (p pod) set(level, option int, value string) (err error) {
	p.Do(func() error {
		socket, opened := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if opened != nil {
			return opened
		}
		defer unix.Close(socket)
		err = unix.SetsockoptString(socket, level, option, value)
		return nil
	})
	return err
}

const enabled = "\x01\x00\x00\x00"

func (p pod) bypass() error { return p.set(unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, enabled) }
func (p pod) xdp() error    { return p.set(unix.SOL_XDP, unix.XDP_TX_RING, enabled) }

// patience is how long the kernel may take.
const patience = 10 * time.Second

func mustAttach(t *testing.T) *Denial {
	t.Helper()
	d, err := Attach()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func pins(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join("/sys/fs/bpf", strings.ReplaceAll(t.Name(), "/", "-")+name)
	if err := loader.EnsureFilesystem(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestNetnsSocketsAreDeniedInGuardedNamespacesAlone(t *testing.T) {
	guarded, other, d := newPod(t), newPod(t), mustAttach(t)
	if err := d.Deny(guarded.cookie); err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]func() error{"bypass": guarded.bypass, "AF_XDP": guarded.xdp} {
		if err := set(); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s in a guarded namespace: %v", name, err)
		}
	}
	if err := guarded.set(unix.SOL_PACKET, unix.PACKET_AUXDATA, enabled); err != nil {
		t.Errorf("another option: %v", err)
	}
	if err := other.bypass(); err != nil {
		t.Errorf("bypass in another namespace: %v", err)
	}
	if err := other.xdp(); errors.Is(err, unix.EPERM) {
		t.Errorf("AF_XDP in another namespace: %v", err)
	}
	if err := errors.Join(d.Leave(guarded.cookie), d.Leave(guarded.cookie)); err != nil {
		t.Fatal(err)
	}
	if err := guarded.bypass(); err != nil {
		t.Errorf("bypass with leave: %v", err)
	}
}

// iptables writes tables of many pages by setsockopt, of which a program sees one.
func TestNetnsLongValuesPass(t *testing.T) {
	p, d := newPod(t), mustAttach(t)
	if err := d.Deny(p.cookie); err != nil {
		t.Fatal(err)
	}
	long := "lo" + strings.Repeat("\x00", 3*os.Getpagesize())
	if err := p.set(unix.SOL_SOCKET, unix.SO_BINDTODEVICE, long); err != nil {
		t.Errorf("a value of %d bytes: %v", len(long), err)
	}
	if err := p.set(unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, enabled+long); !errors.Is(err, unix.EPERM) {
		t.Errorf("bypass with a value of %d bytes: %v", len(long), err)
	}
}

func TestNetnsDenialLastsAsLongAsAPin(t *testing.T) {
	p, d := newPod(t), mustAttach(t)
	first, second := pins(t, "1"), pins(t, "2")
	if err := errors.Join(d.Deny(p.cookie), d.Pin(first), d.Pin(second), d.Pin(second), d.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(first); err != nil {
		t.Fatal(err)
	}
	if err := p.bypass(); !errors.Is(err, unix.EPERM) {
		t.Errorf("with one pin left: %v", err)
	}
	if _, err := Open(first); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening what is gone: %v", err)
	}
	again, err := Open(second)
	if err != nil {
		t.Fatal(err)
	}
	if denied, err := again.Denied(); err != nil || !slices.Equal(denied, []uint64{p.cookie}) {
		t.Errorf("denied are %v (%v), want %d", denied, err, p.cookie)
	}
	if err := p.bypass(); !errors.Is(err, unix.EPERM) {
		t.Errorf("with the program of another process: %v", err)
	}
	if err := errors.Join(again.Close(), os.RemoveAll(second)); err != nil {
		t.Fatal(err)
	}
	// The kernel frees a link behind the back of who lets go of it.
	deadline := time.Now().Add(patience)
	for p.bypass() != nil && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if err := p.bypass(); err != nil {
		t.Errorf("without any pin: %v", err)
	}
}
