// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound means that a path does not exist.
	ErrNotFound = errors.New("no such network namespace")
	// ErrNotNamespace means that a path exists and is not a network namespace.
	ErrNotNamespace = errors.New("not a network namespace")
)

// Namespace is an open network namespace. It is safe for concurrent use, except
// for Close.
type Namespace struct {
	path   string
	ns     ns.NetNS
	handle *netlink.Handle
	dev    uint64
	ino    uint64
	close  func() error
}

// Open opens the network namespace that is bound to path, such as CNI_NETNS
// names it. Errors: ErrNotFound, ErrNotNamespace, and what the kernel says.
func Open(path string) (*Namespace, error) {
	opened, err := ns.GetNS(path)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace %q: %w", path, classify(err))
	}
	n, err := newNamespace(path, opened)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace %q: %w", path, err)
	}
	return n, nil
}

func classify(err error) error {
	var missing ns.NSPathNotExistErr
	var other ns.NSPathNotNSErr
	switch {
	case errors.As(err, &missing), errors.Is(err, fs.ErrNotExist):
		return ErrNotFound
	case errors.As(err, &other):
		return ErrNotNamespace
	}
	return err
}

// Current opens the network namespace of the process.
func Current() (*Namespace, error) {
	type result struct {
		n   *Namespace
		err error
	}
	done := make(chan result)
	// A caller may be locked to a thread that is elsewhere; a new goroutine never
	// is, because Do lets no thread go that did not come back.
	go func() {
		n, err := current()
		done <- result{n, err}
	}()
	r := <-done
	return r.n, r.err
}

func current() (*Namespace, error) {
	opened, err := ns.GetCurrentNS()
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace of the process: %w", err)
	}
	// The path of the thread ends with the thread.
	n, err := newNamespace(fmt.Sprintf("/proc/%d/ns/net", os.Getpid()), opened)
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace of the process: %w", err)
	}
	return n, nil
}

// newNamespace takes over opened, and closes it on error.
func newNamespace(path string, opened ns.NetNS) (*Namespace, error) {
	n := &Namespace{path: path, ns: opened}
	err := n.identify()
	if err == nil {
		err = n.dial()
	}
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	n.close = sync.OnceValue(func() error {
		n.handle.Close()
		return n.ns.Close()
	})
	return n, nil
}

func (n *Namespace) identify() error {
	fd := n.Fd()
	// Everything in /proc passes for a namespace by its file system alone.
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return ErrNotNamespace
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("identifying it: %w", err)
	}
	n.dev, n.ino = stat.Dev, stat.Ino
	return nil
}

// dial opens the netlink socket from a thread inside the namespace, by Do and
// not by netlink.NewHandleAt: that one gives its thread back to the scheduler
// even when the thread could not return to its own namespace.
func (n *Namespace) dial() error {
	return n.Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("opening a netlink socket in it: %w", err)
		}
		n.handle = handle
		return nil
	})
}

// Path is what the namespace was opened by. It may be gone, or lead to another
// namespace by now.
func (n *Namespace) Path() string { return n.path }

// Fd is a descriptor of the namespace, valid until Close.
func (n *Namespace) Fd() int { return int(n.ns.Fd()) }

// Netlink is a route netlink socket inside the namespace, closed with it. Its
// dumps must go through Dump.
func (n *Namespace) Netlink() *netlink.Handle { return n.handle }

// Do runs fn on a thread inside the namespace and returns its error. A
// goroutine that fn starts is not in the namespace.
func (n *Namespace) Do(fn func() error) error {
	return n.ns.Do(func(ns.NetNS) error { return fn() })
}

// Same says whether both are one network namespace, opened by whatever paths.
func (n *Namespace) Same(other *Namespace) bool {
	return n.dev == other.dev && n.ino == other.ino
}

// Is says whether a file is the network namespace, by whatever path.
func (n *Namespace) Is(file fs.FileInfo) bool {
	stat, ok := file.Sys().(*syscall.Stat_t)
	return ok && stat.Dev == n.dev && stat.Ino == n.ino
}

// Close lets the namespace and its netlink socket go. Every call returns what
// the first one did.
func (n *Namespace) Close() error { return n.close() }
