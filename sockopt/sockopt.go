// SPDX-License-Identifier: Apache-2.0

package sockopt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/netns"
)

// Names of the pins in a guard's directory.
const (
	pinLink    = "link_setsockopt"
	pinGuarded = "guarded"
)

// Denial is the program in force. Closing it lets go of the process's references; it stays
// in force while it is pinned.
type Denial struct {
	link    link.Link
	guarded *ebpf.Map
}

// Attach puts a program in force that denies nobody anything yet.
func Attach() (*Denial, error) {
	program, guarded, err := load(nil)
	if err != nil {
		return nil, fmt.Errorf("loading the program of sockets: %w", err)
	}
	defer program.Close()
	l, err := attach(program)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attaching the program of sockets: %w", err), guarded.Close())
	}
	return &Denial{link: l, guarded: guarded}, nil
}

// Open opens what is pinned in the directory of a guard, and turns it to the program of
// this build. The error is fs.ErrNotExist when nothing is.
func Open(dir string) (*Denial, error) {
	d, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the program of sockets in %s: %w", dir, err)
	}
	if err := d.update(); err != nil {
		return nil, errors.Join(fmt.Errorf("updating the program of sockets in %s: %w", dir, err), d.Close())
	}
	return d, nil
}

func open(dir string) (*Denial, error) {
	guarded, err := ebpf.LoadPinnedMap(filepath.Join(dir, pinGuarded), nil)
	if err != nil {
		return nil, err
	}
	l, err := link.LoadPinnedLink(filepath.Join(dir, pinLink), nil)
	if err != nil {
		return nil, errors.Join(err, guarded.Close())
	}
	return &Denial{link: l, guarded: guarded}, nil
}

func (d *Denial) update() error {
	program, guarded, err := load(map[string]*ebpf.Map{bpf.GuardedMap: d.guarded})
	if err != nil {
		return err
	}
	defer program.Close()
	return errors.Join(d.link.Update(program), guarded.Close())
}

func load(shared map[string]*ebpf.Map) (*ebpf.Program, *ebpf.Map, error) {
	spec, err := bpf.SocketsSpec()
	if err != nil {
		return nil, nil, err
	}
	var o struct {
		Program *ebpf.Program `ebpf:"weir_setsockopt"`
		Guarded *ebpf.Map     `ebpf:"weir_guarded"`
	}
	if err := spec.LoadAndAssign(&o, &ebpf.CollectionOptions{MapReplacements: shared}); err != nil {
		return nil, nil, err
	}
	return o.Program, o.Guarded, nil
}

func attach(program *ebpf.Program) (link.Link, error) {
	root, err := hierarchy()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(root) }()
	return link.AttachCgroup(link.CgroupOptions{
		Path:    fmt.Sprintf("/proc/self/fd/%d", root),
		Attach:  ebpf.AttachCGroupSetsockopt,
		Program: program,
	})
}

// Pin keeps the program in force as long as a guard's directory is there. What is pinned
// there already is replaced.
func (d *Denial) Pin(dir string) error {
	if err := errors.Join(remove(dir, pinGuarded), remove(dir, pinLink)); err != nil {
		return err
	}
	if err := errors.Join(d.pinGuarded(dir), d.pinLink(dir)); err != nil {
		return fmt.Errorf("pinning the program of sockets in %s: %w", dir, err)
	}
	return nil
}

func remove(dir, pin string) error {
	if err := os.Remove(filepath.Join(dir, pin)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the pin of the program of sockets: %w", err)
	}
	return nil
}

// Of an object that it knows to be pinned the library moves the pin, so that a further
// one is made of another reference.

func (d *Denial) pinGuarded(dir string) error {
	reference, err := d.guarded.Clone()
	if err != nil {
		return err
	}
	defer reference.Close()
	return reference.Pin(filepath.Join(dir, pinGuarded))
}

func (d *Denial) pinLink(dir string) error {
	info, err := d.link.Info()
	if err != nil {
		return err
	}
	reference, err := link.NewFromID(info.ID)
	if err != nil {
		return err
	}
	defer reference.Close()
	return reference.Pin(filepath.Join(dir, pinLink))
}

// Deny denies the sockets of a network namespace what goes round tc. Sockets that have it
// already keep it.
func (d *Denial) Deny(cookie uint64) error {
	if err := d.guarded.Put(cookie, uint8(1)); err != nil {
		return fmt.Errorf("denying the sockets of network namespace %d: %w", cookie, err)
	}
	return nil
}

// Leave denies them nothing any more.
func (d *Denial) Leave(cookie uint64) error {
	if err := d.guarded.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("giving leave to the sockets of network namespace %d: %w", cookie, err)
	}
	return nil
}

// Denied lists the network namespaces whose sockets are denied something.
func (d *Denial) Denied() ([]uint64, error) {
	var (
		all    []uint64
		cookie uint64
		value  uint8
	)
	entries := d.guarded.Iterate()
	for entries.Next(&cookie, &value) {
		all = append(all, cookie)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("listing the network namespaces that are denied something: %w", err)
	}
	return all, nil
}

// Close lets go of the program, which is out of force then if it is not pinned.
func (d *Denial) Close() error {
	return errors.Join(d.link.Close(), d.guarded.Close())
}

// Cookie is the number of a network namespace that no other has until the next boot.
func Cookie(ns *netns.Namespace) (uint64, error) {
	var cookie uint64
	err := ns.Do(func() error {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(socket) }()
		cookie, err = unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("reading the cookie of %s: %w", ns.Path(), err)
	}
	return cookie, nil
}
