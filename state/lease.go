// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// LeasesDir is the directory of leases within an agent's state directory.
const LeasesDir = "leases"

// Claim is an IPAMClaim (NPWG specification 1.3, section 8) that a network's addresses
// are of.
type Claim struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// IPs are the addresses that the claim has, or asks for, as ADDRESS/LENGTH. Without
	// any the network's IPAM chooses.
	IPs []string `json:"ips,omitempty"`
	// Owner is the pod that the claim names as its holder, when the network was planned.
	Owner string `json:"owner,omitempty"`
}

func (c *Claim) String() string { return c.Namespace + "/" + c.Name }

// Lease is what this node holds of its address pools for a claim, from one pod to the
// next, until the claim is deleted.
type Lease struct {
	Claim Claim `json:"claim"`
	// Holder is the attachment that has the addresses, as HolderOf makes it; empty for none.
	Holder string `json:"holder,omitempty"`
	// Config is the configuration with which the addresses were reserved, and Path and
	// Args what else is needed to release them.
	Config json.RawMessage `json:"config"`
	Path   []string        `json:"path"`
	Args   string          `json:"args,omitempty"`
	// Result is what the IPAM gave; empty until it did.
	Result json.RawMessage `json:"result,omitempty"`
}

// HolderOf names an attachment as the holder of a lease.
func HolderOf(recordKey, ifname string) string { return recordKey + "/" + ifname }

// RecordOf is the key of the record whose attachment a holder is.
func RecordOf(holder string) string {
	key, _, _ := strings.Cut(holder, "/")
	return key
}

// HeldError is the error of a lease that another attachment has.
type HeldError struct {
	Claim  *Claim
	Holder string
}

func (e *HeldError) Error() string {
	key, ifname, _ := strings.Cut(e.Holder, "/")
	return fmt.Sprintf("the addresses of IPAMClaim %s are in use by %s of container %s on this node", e.Claim, ifname, key)
}

// Leases is a directory of leases. Its methods may be called at the same time.
type Leases struct {
	mu  sync.Mutex
	dir *Dir
}

// OpenLeases makes the directory if it is missing.
func OpenLeases(path string) (*Leases, error) {
	dir, err := Open(path)
	if err != nil {
		return nil, err
	}
	return &Leases{dir: dir}, nil
}

// Take makes an attachment the holder of a claim's lease, which is made if there is none.
// The error is a *HeldError when another attachment has it that isThere.
func (l *Leases) Take(claim *Claim, holder string, isThere func(recordKey string) bool) (*Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease, err := l.load(claim.UID)
	switch {
	// Of a damaged one nothing is lost that cannot be reserved again.
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrCorrupt):
		lease = &Lease{}
	case err != nil:
		return nil, err
	}
	if lease.Holder != "" && lease.Holder != holder && isThere(RecordOf(lease.Holder)) {
		return nil, &HeldError{claim, lease.Holder}
	}
	lease.Claim, lease.Holder = *claim, holder
	return lease, l.save(lease)
}

// Save writes a lease.
func (l *Leases) Save(lease *Lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.save(lease)
}

// Drop ends a holder's hold of a lease. It returns the lease, or nil where the holder has
// none.
func (l *Leases) Drop(uid, holder string) (*Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease, err := l.load(uid)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case lease.Holder != holder:
		return nil, nil
	}
	lease.Holder = ""
	return lease, l.save(lease)
}

// Remove removes a lease that nobody holds any more, after what release does.
func (l *Leases) Remove(uid string, release func(*Lease) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease, err := l.load(uid)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case lease.Holder != "":
		return nil
	}
	if err := release(lease); err != nil {
		return err
	}
	return l.dir.Delete(uid)
}

// List reads every lease. Those that cannot be read are named in the error.
func (l *Leases) List() ([]*Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries, err := os.ReadDir(l.dir.path)
	if err != nil {
		return nil, fmt.Errorf("listing the leases: %w", err)
	}
	var all []*Lease
	var errs []error
	for _, entry := range entries {
		uid, isLease := strings.CutSuffix(entry.Name(), suffix)
		if !isLease || strings.HasPrefix(uid, ".") {
			continue
		}
		lease, err := l.load(uid)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, lease)
	}
	return all, errors.Join(errs...)
}

func (l *Leases) save(lease *Lease) error {
	path, err := l.dir.file(lease.Claim.UID)
	if err != nil {
		return err
	}
	data, err := encode(lease)
	if err == nil {
		err = l.dir.replace(path, data)
	}
	if err != nil {
		return fmt.Errorf("writing the lease of IPAMClaim %s: %w", &lease.Claim, err)
	}
	return nil
}

func (l *Leases) load(uid string) (*Lease, error) {
	path, err := l.dir.file(uid)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a lease: %w", err)
	}
	body, err := bodyOf(data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	lease := &Lease{}
	if err := json.Unmarshal(body, lease); err != nil {
		return nil, fmt.Errorf("reading %s: %w: %w", path, ErrCorrupt, err)
	}
	if lease.Claim.UID+suffix != filepath.Base(path) {
		return nil, fmt.Errorf("reading %s: %w: it is that of IPAMClaim %s", path, ErrCorrupt, &lease.Claim)
	}
	return lease, nil
}
