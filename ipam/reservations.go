// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
	"golang.org/x/sys/unix"
)

const (
	// lockPoll is the time between two tries to get the lock.
	lockPoll = 2 * time.Millisecond
	// lockFile and lastReservedPrefix are names that the reference plugin gives.
	lockFile           = "lock"
	lastReservedPrefix = "last_reserved_ip."
	// unnamed is a reservation that is being written and has no address yet.
	unnamed = ".weir-reserving"
)

// reservations are the files in which the reference plugin keeps the addresses of a network, one
// named for each address, with the container ID and the interface name of its holder in it. They
// are locked from open to close, so that several operations are one to all others. The lock is on a
// descriptor of its own: the store's is inherited by every process that is executed meanwhile.
type reservations struct {
	*disk.Store

	dir  string
	lock *os.File
}

var _ backend.Store = (*reservations)(nil)

// openReservations creates the directory if need be and waits for the lock until ctx ends.
func openReservations(ctx context.Context, dataDir, network string) (*reservations, error) {
	store, err := disk.New(network, dataDir)
	if err != nil {
		return nil, fmt.Errorf("opening the reservations: %w", err)
	}
	dir := filepath.Join(dataDir, network)
	lock, err := acquire(ctx, filepath.Join(dir, lockFile))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the reservations in %s: %w", dir, err), store.Close())
	}
	r := &reservations{Store: store, dir: dir, lock: lock}
	// Whoever was writing it is dead, or would hold the lock.
	if err := os.Remove(r.path(unnamed)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("removing an unfinished reservation: %w", err), r.Close())
	}
	return r, nil
}

// acquire polls, because a thread that blocks in flock cannot be called back when ctx ends.
func acquire(ctx context.Context, path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(lockPoll):
		}
	}
}

// Close gives the lock back. It must be called once.
func (r *reservations) Close() error {
	return errors.Join(r.Store.Close(), r.lock.Close())
}

// Lock implements backend.Store. The lock is held already.
func (r *reservations) Lock() error { return nil }

// Unlock implements backend.Store. The lock is held until Close.
func (r *reservations) Unlock() error { return nil }

// Reserve implements backend.Store. Unlike the store that it stands in for, it gives the file its
// name after its content: a process killed in between would leave an address that no Del frees.
func (r *reservations) Reserve(id, ifname string, ip net.IP, rangeID string) (bool, error) {
	name := r.path(ip.String())
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	content := []byte(id + disk.LineBreak + ifname)
	if err := os.WriteFile(r.path(unnamed), content, 0o600); err != nil {
		return false, err
	}
	if err := os.Rename(r.path(unnamed), name); err != nil {
		return false, err
	}
	return true, os.WriteFile(r.path(lastReservedPrefix+rangeID), []byte(ip.String()), 0o600)
}

func (r *reservations) path(name string) string { return disk.GetEscapedPath(r.dir, name) }

// held returns the addresses that an attachment holds.
func (r *reservations) held(id, ifname string) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range r.GetByID(id, ifname) {
		addrs = append(addrs, toAddr(ip))
	}
	return addrs
}

// release frees all that an attachment holds.
func (r *reservations) release(id, ifname string) error {
	if err := r.ReleaseByID(id, ifname); err != nil {
		return fmt.Errorf("releasing the addresses: %w", err)
	}
	// The store passes over files that it cannot remove.
	if left := r.held(id, ifname); len(left) > 0 {
		return fmt.Errorf("releasing the addresses: %v remain in %s", left, r.dir)
	}
	return nil
}
