// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// outside is the place of another process, from which children are started as if
// that one did it.
type outside struct {
	process string // its directory in /proc
}

// cgroups is where every node has its cgroups.
const cgroups = "/sys/fs/cgroup"

// do calls fn on a thread that is in the mount and the cgroup namespace of the
// process, with what has a child start in the root of the cgroups. The thread ends
// with fn, as no other goroutine may run on it. The main thread cannot end, and its
// namespaces are what the kernel takes for the process's: where it comes up, it is held
// until another has done the work.
func (o *outside) do(fn func(*syscall.SysProcAttr) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- o.do(fn)
			return
		}
		done <- o.enter(fn)
	}()
	return <-done
}

func (o *outside) enter(fn func(*syscall.SysProcAttr) error) error {
	namespaces := []struct {
		name string
		flag int
	}{{"cgroup", unix.CLONE_NEWCGROUP}, {"mnt", unix.CLONE_NEWNS}}
	files := make([]*os.File, len(namespaces))
	for i, ns := range namespaces {
		f, err := os.Open(filepath.Join(o.process, "ns", ns.name))
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	// Threads share their root and working directory, which a mount namespace brings
	// along.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leaving the threads' file system: %w", err)
	}
	for i, ns := range namespaces {
		if err := unix.Setns(int(files[i].Fd()), ns.flag); err != nil {
			return fmt.Errorf("entering the %s namespace: %w", ns.name, err)
		}
	}
	return leaveCgroups(fn)
}

// leaveCgroups calls fn with what has a child start in the root of the cgroups: with
// version 2 by the way it is started, with version 1 since the thread itself is there.
func leaveCgroups(fn func(*syscall.SysProcAttr) error) error {
	var kind unix.Statfs_t
	if err := unix.Statfs(cgroups, &kind); err != nil {
		return fmt.Errorf("looking at %s: %w", cgroups, err)
	}
	if kind.Type != unix.CGROUP2_SUPER_MAGIC {
		if err := moveThread(); err != nil {
			return err
		}
		return fn(&syscall.SysProcAttr{})
	}
	root, err := os.Open(cgroups)
	if err != nil {
		return err
	}
	defer root.Close()
	return fn(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(root.Fd())})
}

// moveThread moves this thread to the root of each version 1 hierarchy that bounds
// what a pod may use.
func moveThread() error {
	for _, controller := range []string{"memory", "pids", "cpu"} {
		tasks := filepath.Join(cgroups, controller, "tasks")
		err := os.WriteFile(tasks, []byte(strconv.Itoa(unix.Gettid())), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("leaving the %s cgroup: %w", controller, err)
		}
	}
	return nil
}
