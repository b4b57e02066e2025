// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Watch follows what becomes of the interfaces of a namespace. It keeps the namespace
// from ending.
type Watch struct {
	socket *os.File
	raw    syscall.RawConn
	buffer []byte
	closed atomic.Bool
}

// Watch begins to follow the namespace's interfaces and their traffic control. What comes
// while nobody calls Next is kept for it, or said to be lost.
func (n *Namespace) Watch() (*Watch, error) {
	fd := -1
	err := n.Do(func() (err error) {
		fd, err = subscribe(unix.RTNLGRP_LINK, unix.RTNLGRP_TC)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watching the interfaces of %s: %w", n.path, err)
	}
	// The runtime waits for it without a thread, as it does not block.
	socket := os.NewFile(uintptr(fd), "netlink")
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watching the interfaces of %s: %w", n.path, err), socket.Close())
	}
	return &Watch{socket: socket, raw: raw, buffer: make([]byte, watchBuffer)}, nil
}

// watchBuffer holds more than the head of a message, which is all that is read of it.
const watchBuffer = 4096

func subscribe(groups ...int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, group := range groups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group))
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// Changes are interfaces, by index, that have changed, or whose traffic control has.
type Changes struct {
	Interfaces map[int]bool
	// Lost is set when the kernel had no room for some: any may have changed.
	Lost bool
}

// Next waits for changes, until a time at most, and returns all that there are. Its error
// is os.ErrClosed after Close.
func (w *Watch) Next(until time.Time) (Changes, error) {
	changes := Changes{Interfaces: map[int]bool{}}
	if err := w.socket.SetReadDeadline(until); err != nil {
		return changes, fmt.Errorf("waiting for changes of interfaces: %w", err)
	}
	var failure error
	err := w.raw.Read(func(fd uintptr) bool {
		failure = w.drain(int(fd), &changes)
		return failure != nil || changes.Lost || len(changes.Interfaces) > 0
	})
	switch err = errors.Join(err, failure); {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		return changes, nil
	case w.closed.Load():
		return changes, os.ErrClosed
	default:
		return changes, fmt.Errorf("reading changes of interfaces: %w", err)
	}
}

// drain reads what there is and does not wait.
func (w *Watch) drain(fd int, changes *Changes) error {
	for {
		n, _, err := unix.Recvfrom(fd, w.buffer, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changes.Lost = true
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			changes.note(w.buffer[:n])
		}
	}
}

// note reads the first message of a datagram: the kernel sends each change by itself. Those
// of interfaces and of traffic control have the index in the same place (struct ifinfomsg
// and struct tcmsg).
func (c *Changes) note(datagram []byte) {
	const indexAt = unix.NLMSG_HDRLEN + 4
	if len(datagram) >= indexAt+4 {
		c.Interfaces[int(int32(binary.NativeEndian.Uint32(datagram[indexAt:])))] = true
	}
}

// Close ends the watch, and a Next that waits.
func (w *Watch) Close() error {
	w.closed.Store(true)
	return w.socket.Close()
}
