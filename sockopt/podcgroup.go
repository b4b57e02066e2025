// SPDX-License-Identifier: Apache-2.0

package sockopt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoCgroup is the error of a pod that has no control group of version 2, as on nodes
// whose controllers are those of version 1.
var ErrNoCgroup = errors.New("the pod has no control group of version 2")

// podCgroupDepth is how far below the root the kubelet makes the groups of pods: below
// kubepods, a class of service, and what a node in a container is in itself.
const podCgroupDepth = 5

// PodCgroup is the number of a pod's control group, which the kubelet makes before the
// pod's sandbox and names for the pod's UID. Those of the pod's containers are below it.
func PodCgroup(uid string) (uint64, error) {
	if uid == "" {
		return 0, ErrNoCgroup
	}
	root, err := hierarchy()
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(root) }()
	id, err := findCgroup(os.DirFS(fmt.Sprintf("/proc/self/fd/%d", root)), uid)
	if err != nil {
		return 0, fmt.Errorf("looking for the control group of pod %s: %w", uid, err)
	}
	return id, nil
}

// findCgroup finds the number of the group that is named for a UID, as the kubelet's two
// drivers do: cgroupfs as it is, systemd with underscores.
func findCgroup(hierarchy fs.FS, uid string) (id uint64, err error) {
	names := []string{"pod" + uid, "pod" + strings.ReplaceAll(uid, "-", "_") + ".slice"}
	err = fs.WalkDir(hierarchy, ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it went meanwhile
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case strings.HasSuffix(path, names[0]), strings.HasSuffix(path, names[1]):
			if id, err = numberOf(entry); err == nil {
				err = fs.SkipAll
			}
			return err
		case strings.Count(path, "/") >= podCgroupDepth-1:
			return fs.SkipDir
		}
		return nil
	})
	if err == nil && id == 0 {
		err = ErrNoCgroup
	}
	return id, err
}

// numberOf is the number by which the kernel knows a group: that of its directory's inode.
func numberOf(entry fs.DirEntry) (uint64, error) {
	info, err := entry.Info()
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, ErrNoCgroup
	}
	return stat.Ino, nil
}
