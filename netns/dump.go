// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// dumpAttempts bounds how often an interrupted dump is begun again.
const dumpAttempts = 5

// Dump calls list, a netlink dump, again when the kernel says that what it
// listed changed meanwhile (NLM_F_DUMP_INTR), up to five times in all. A dump
// that was interrupted each time is an error: its list may lack entries.
func Dump[T any](list func() ([]T, error)) ([]T, error) {
	for range dumpAttempts {
		items, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return items, err
		}
	}
	return nil, fmt.Errorf("listing %d times: %w", dumpAttempts, netlink.ErrDumpInterrupted)
}
