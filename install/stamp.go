// SPDX-License-Identifier: Apache-2.0

package install

import (
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// stamp changes when a file does.
type stamp struct {
	device, inode     uint64
	size              int64
	modified, changed unix.Timespec
	mode              uint32
}

// stampOf is that of the file that a path leads to.
func stampOf(path string) (stamp, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return stamp{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return stamp{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim, s.Mode}, nil
}

// isSettled tells whether a further change would change the stamp: times are no finer
// than the kernel's tick.
func (s stamp) isSettled(now time.Time) bool {
	return now.Sub(time.Unix(s.changed.Unix())) > time.Second
}
