// SPDX-License-Identifier: Apache-2.0

//go:build netns

package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mustMount mounts a file system of 64 KiB where one of the node's directories is.
func (n *node) mustMount(dir string) {
	n.t.Helper()
	n.must(os.MkdirAll(dir, 0o755))
	n.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	n.t.Cleanup(func() { n.must(unix.Unmount(dir, unix.MNT_DETACH)) })
}

func (n *node) mustRemount(dir string, flags uintptr) {
	n.t.Helper()
	n.must(unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""))
}

func TestNetnsAFullDiskKeepsTheOldFiles(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.mustMount(n.ConfDir)
	n.mustMount(n.BinDir)
	n.write("10-flannel.conflist", flannel)
	n.start().waitNames("10-flannel.conflist")
	n.end()
	fill := func(dir string) string {
		path := filepath.Join(dir, "fill")
		f, err := os.Create(path)
		n.must(err)
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		n.must(f.Close())
		return path
	}
	fills := []string{fill(n.ConfDir), fill(n.BinDir)}
	n.must(os.WriteFile(n.Plugin, make([]byte, 8192), 0o755))
	n.Settings = map[string]any{"socket": "/other"}
	n.start().waitReport("no space left on device")
	if n.names() != "10-flannel.conflist" {
		t.Error("the old entry is gone")
	}
	if ok, err := holds(filepath.Join(n.BinDir, "weir"), []byte("the plugin"), 0o755); !ok {
		t.Errorf("the old plugin is gone: %v", err)
	}
	for _, path := range fills {
		n.must(os.Remove(path))
	}
	n.wait("the new plugin", func() bool {
		ok, _ := holds(filepath.Join(n.BinDir, "weir"), make([]byte, 8192), 0o755)
		return ok
	})
	n.wait("the new entry", func() bool {
		data, _ := os.ReadFile(n.path(DefaultName))
		return strings.Contains(string(data), "/other")
	})
	if names := n.files(n.ConfDir); len(names) != 2 {
		t.Errorf("left over: %q", names)
	}
}

func TestNetnsAReadOnlyDirectoryIsReportedAndTriedAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.mustMount(n.ConfDir)
	n.write("10-flannel.conflist", flannel)
	n.mustRemount(n.ConfDir, unix.MS_RDONLY)
	n.start().waitReport("read-only file system")
	n.mustRemount(n.ConfDir, 0)
	n.waitNames("10-flannel.conflist")
}

func TestNetnsAnotherFileSystemOverTheDirectoryIsFollowed(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.pace.poll = n.pace.blind
	n.start().waitNames("10-flannel.conflist")
	n.mustMount(n.ConfDir)
	n.write("30-calico.conflist", calico)
	n.waitNames("30-calico.conflist")
}
