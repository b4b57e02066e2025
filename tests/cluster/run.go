// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroups = "/sys/fs/cgroup"

const runStem = "weir-e2e-"

// runPrefix is how the names begin of a run that the process pid supervises.
func runPrefix(pid int) string { return fmt.Sprintf("%s%d-", runStem, pid) }

// runName is the name of the run that has this folder.
func runName(dir string) string { return filepath.Base(dir) }

// sweep removes what runs have left whose supervisor was killed.
func sweep() {
	old, err := filepath.Glob(filepath.Join(os.TempDir(), runStem+"*"))
	if err != nil {
		return
	}
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), runStem), "-")
		n, err := strconv.Atoi(pid)
		if err != nil || !errors.Is(unix.Kill(n, 0), unix.ESRCH) {
			continue
		}
		if err := removeRun(dir); err != nil {
			fmt.Fprintln(os.Stderr, "removing what an earlier run has left:", err)
		}
	}
}

// removeRun removes the folder and the cgroups of a run that has ended.
func removeRun(dir string) error {
	// What is mounted there would be removed as well.
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if bytes.Contains(mounts, []byte(dir+"/")) {
		return fmt.Errorf("there are still mounts below %s", dir)
	}
	return errors.Join(removeCgroups(runName(dir)), os.RemoveAll(dir))
}

// hierarchies are the folders in which cgroups are made: one a controller, and
// that of version 2, which some machines mount beside them.
func hierarchies() ([]string, error) {
	if _, err := os.Stat(filepath.Join(cgroups, "cgroup.controllers")); err == nil {
		return nil, errors.New("this machine's cgroups are those of version 2, which are not supported")
	}
	entries, err := os.ReadDir(cgroups)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		// Joined controllers have a symlink for each of their names.
		if e.IsDir() {
			found = append(found, filepath.Join(cgroups, e.Name()))
		}
	}
	return found, nil
}

// makeCgroup makes a cgroup in every hierarchy.
func makeCgroup(name string) error {
	all, err := hierarchies()
	if err != nil {
		return fmt.Errorf("listing the cgroup hierarchies: %w", err)
	}
	for _, h := range all {
		if err := os.MkdirAll(filepath.Join(h, name), 0o755); err != nil {
			return fmt.Errorf("making a cgroup: %w", err)
		}
		if err := fillCpuset(h, name); err != nil {
			return fmt.Errorf("giving the cgroup %s processors: %w", name, err)
		}
	}
	return nil
}

// fillCpuset lets a cgroup, and those above it, use what the one above them does:
// in version 1 a new one may use nothing.
func fillCpuset(hierarchy, name string) error {
	above := hierarchy
	for part := range strings.SplitSeq(name, "/") {
		here := filepath.Join(above, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(above, file))
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(here, file), value, 0o644); err != nil {
				return err
			}
		}
		above = here
	}
	return nil
}

// removeCgroups removes a cgroup and all below it from every hierarchy. Nothing
// runs in them any more, which the kernel may need a moment to notice.
func removeCgroups(name string) error {
	all, err := hierarchies()
	if err != nil {
		return fmt.Errorf("listing the cgroup hierarchies: %w", err)
	}
	var errs []error
	for _, h := range all {
		errs = append(errs, removeTree(filepath.Join(h, name)))
	}
	return errors.Join(errs...)
}

func removeTree(top string) error {
	var folders []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			folders = append(folders, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("listing cgroups: %w", err)
	}
	for _, f := range slices.Backward(folders) {
		if err := removeCgroup(f); err != nil {
			return fmt.Errorf("removing a cgroup: %w", err)
		}
	}
	return nil
}

func removeCgroup(path string) error {
	var err error
	for range 100 {
		err = unix.Rmdir(path)
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}
