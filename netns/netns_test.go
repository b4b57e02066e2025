// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
)

func TestOpenRefusesWhatIsNoNamespace(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		want       error
	}{
		{"empty path", "", netns.ErrNotFound},
		{"nothing there", filepath.Join(t.TempDir(), "missing"), netns.ErrNotFound},
		{"a file", file, netns.ErrNotNamespace},
		{"a directory", t.TempDir(), netns.ErrNotNamespace},
		{"a file in proc", "/proc/self/status", netns.ErrNotNamespace},
		{"a directory in proc", "/proc/self", netns.ErrNotNamespace},
		{"another kind of namespace", "/proc/self/ns/mnt", netns.ErrNotNamespace},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := netns.Open(c.path)
			if !errors.Is(err, c.want) {
				t.Errorf("Open(%q) = %v, %v; want %v", c.path, got, err, c.want)
			}
		})
	}
}

func TestDumpRetries(t *testing.T) {
	t.Parallel()
	other := errors.New("another error")
	for _, c := range []struct {
		name        string
		interrupted int
		then        error
		wantCalls   int
		want        []int
		wantErr     error
	}{
		{"not interrupted", 0, nil, 1, []int{7}, nil},
		{"interrupted four times", 4, nil, 5, []int{7}, nil},
		{"interrupted five times", 5, nil, 5, nil, netlink.ErrDumpInterrupted},
		{"another error is final", 1, other, 2, []int{7}, other},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			got, err := netns.Dump(func() ([]int, error) {
				calls++
				if calls <= c.interrupted {
					return []int{1, 2}, netlink.ErrDumpInterrupted
				}
				return []int{7}, c.then
			})
			if !errors.Is(err, c.wantErr) || calls != c.wantCalls {
				t.Errorf("%d calls, error %v; want %d, %v", calls, err, c.wantCalls, c.wantErr)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("unexpected list (-want +got):\n%s", diff)
			}
		})
	}
}
