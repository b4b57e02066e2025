// SPDX-License-Identifier: Apache-2.0

package sockopt

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// hierarchy is a descriptor of the root of the cgroup v2 hierarchy, mounted for this
// descriptor alone. A container sees its own cgroup as the root: then it is the first
// process's that is taken, as the node's pods are below that.
func hierarchy() (int, error) {
	type opened struct {
		root int
		err  error
	}
	done := make(chan opened)
	go func() {
		runtime.LockOSThread() // the thread is in another cgroup namespace and ends with this
		root, err := mountHierarchy()
		done <- opened{root, err}
	}()
	o := <-done
	if o.err != nil {
		return 0, fmt.Errorf("mounting the cgroup v2 hierarchy: %w", o.err)
	}
	return o.root, nil
}

func mountHierarchy() (int, error) {
	root, err := mountCgroup()
	if err != nil || isRoot(root) {
		return root, err
	}
	if err := unix.Close(root); err != nil {
		return 0, err
	}
	namespace, err := os.Open("/proc/1/ns/cgroup")
	if err != nil {
		return 0, err
	}
	defer namespace.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWCGROUP); err != nil {
		return 0, fmt.Errorf("entering the first process's cgroup namespace: %w", err)
	}
	return mountCgroup()
}

// isRoot tells the root of all cgroups by what it alone does not have.
func isRoot(cgroup int) bool {
	return errors.Is(unix.Faccessat(cgroup, "cgroup.events", unix.F_OK, 0), unix.ENOENT)
}

// mountCgroup mounts the hierarchy as the calling thread's cgroup namespace shows it.
func mountCgroup() (int, error) {
	context, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(context) }()
	if err := unix.FsconfigCreate(context); err != nil {
		return 0, err
	}
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
}
