// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// entryMode is that of weir's entry.
const entryMode = 0o600

// ciliumSuffix is what Cilium appends to the names of others' configurations.
const ciliumSuffix = ".cilium_bak"

func (e *entryKeeper) write(now time.Time, network *Network, data []byte) (time.Duration, error) {
	e.gate.pass(now)
	done := e.doneTo()
	e.failed = Replace(e.entry(), data, entryMode, func(temp string) (err error) {
		if err = CheckEntry(temp); err == nil {
			e.file, err = os.Lstat(temp)
		}
		return err
	})
	if e.failed != nil {
		return e.gate.wait(now), e.failed
	}
	e.Log.Info("weir's entry is written", "path", e.entry(), "default_network", network.Path)
	if done != "" {
		e.reporter.happened(now, ReasonRestored, done)
	}
	if e.current != "" && e.current != network.Path {
		e.reporter.happened(now, ReasonDefaultNetworkChanged,
			fmt.Sprintf("the default network of pods is that of %s from now on; it was that of %s", network.Path, e.current))
	}
	e.current, e.written = network.Path, data
	return never, nil
}

// keepAsIs notes that the entry is as it should be.
func (e *entryKeeper) keepAsIs(network *Network, data []byte) {
	e.current, e.written, e.failed = network.Path, data, nil
	if file, err := os.Lstat(e.entry()); err == nil {
		e.file = file
	}
}

// doneTo says what somebody has done to the entry since it was last right; empty when
// nobody has done anything.
func (e *entryKeeper) doneTo() string {
	if e.written == nil {
		return ""
	}
	if same, err := holds(e.entry(), e.written, entryMode); same || err != nil {
		return ""
	}
	if e.isThere() {
		return fmt.Sprintf("somebody changed %s; it has been written again", e.entry())
	}
	name := e.renamedTo()
	switch {
	case name == "":
		return fmt.Sprintf("somebody removed %s; it has been written again", e.entry())
	case strings.HasSuffix(name, ciliumSuffix):
		return fmt.Sprintf("Cilium renamed %s to %s; it has been written again. Set cni.exclusive=false in Cilium's "+
			"Helm values (cni-exclusive in its ConfigMap), or pods start without weir each time", e.entry(), name)
	}
	return fmt.Sprintf("somebody renamed %s to %s; it has been written again", e.entry(), name)
}

// renamedTo is the name that the entry's file has by now, or empty.
func (e *entryKeeper) renamedTo() string {
	files, err := os.ReadDir(e.ConfDir)
	if err != nil || e.file == nil {
		return ""
	}
	for _, file := range files {
		info, err := os.Lstat(filepath.Join(e.ConfDir, file.Name()))
		if err == nil && os.SameFile(info, e.file) {
			return file.Name()
		}
	}
	return ""
}
