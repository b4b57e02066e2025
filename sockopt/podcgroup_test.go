// SPDX-License-Identifier: Apache-2.0

package sockopt

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFindCgroup(t *testing.T) {
	const uid = "de2cd5e3-91cf-44fc-b38f-f4dfa9c3606a"
	tests := []struct {
		name, path string
		there      bool
	}{
		{"cgroupfs, guaranteed", "kubepods/pod" + uid, true},
		{"cgroupfs, burstable", "kubepods/burstable/pod" + uid, true},
		{"systemd", "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podde2cd5e3_91cf_44fc_b38f_f4dfa9c3606a.slice", true},
		{"a node in a container", "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podde2cd5e3_91cf_44fc_b38f_f4dfa9c3606a.slice", true},
		{"too deep", "a/b/c/d/e/pod" + uid, false},
		{"another pod", "kubepods/pod00000000-91cf-44fc-b38f-f4dfa9c3606a", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, test.path)
			if err := os.MkdirAll(filepath.Join(path, "container"), 0o755); err != nil {
				t.Fatal(err)
			}
			id, err := findCgroup(os.DirFS(root), uid)
			if !test.there {
				if !errors.Is(err, ErrNoCgroup) {
					t.Errorf("found %d: %v", id, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if want := info.Sys().(*syscall.Stat_t).Ino; id != want {
				t.Errorf("found %d, want %d", id, want)
			}
		})
	}
}
