// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSourceLines(t *testing.T) {
	t.Parallel()
	const machine = `http://mirror.test/debian/|bookworm|main|Debian
http://mirror.test/debian/|bookworm|contrib|Debian
http://mirror.test/debian/|bookworm-updates|main|Debian
http://other.test/tools|bookworm|main|Tools Inc
`
	const signed = "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
	tests := []struct {
		name    string
		targets string
		suites  []string
		want    []string
	}{
		{
			"those of the suites that are there", machine,
			[]string{"bookworm", "bookworm-updates", "bookworm-security"},
			[]string{signed + "http://mirror.test/debian/ bookworm main\n", signed + "http://mirror.test/debian/ bookworm-updates main\n"},
		},
		{
			"backports are beside stable", machine, []string{"bookworm-backports"},
			[]string{signed + "http://mirror.test/debian/ bookworm-backports main\n"},
		},
		{
			"backports of the machine's own", machine + "http://back.test/|bookworm-backports|main|Debian\n",
			[]string{"bookworm-backports"}, []string{signed + "http://back.test/ bookworm-backports main\n"},
		},
		{
			"the release before is beside stable", machine + "http://safe.test/|bookworm-security|main|Debian\n",
			[]string{"bullseye", "bullseye-security"},
			[]string{signed + "http://mirror.test/debian/ bullseye main\n", signed + "http://safe.test/ bullseye-security main\n"},
		},
		{
			"lists never downloaded", "http://mirror.test/debian/|bookworm|main|$(ORIGIN)\n",
			[]string{"bookworm"}, []string{signed + "http://mirror.test/debian/ bookworm main\n"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := sourceLines(tt.targets, tt.suites)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSourceLinesWithoutDebian(t *testing.T) {
	t.Parallel()
	for _, targets := range []string{"", "\n", "a|b", "http://other.test/|bookworm|main|Tools Inc\n", "http://mirror.test/|trixie|main|Debian\n"} {
		if lines, err := sourceLines(targets, []string{"bookworm"}); err == nil {
			t.Errorf("%q: %v, want an error", targets, lines)
		}
	}
}

func TestImageName(t *testing.T) {
	t.Parallel()
	const depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.12.9+deb12-cloud-amd64\n"
	tests := []struct {
		name, depends, version, want string
	}{
		{"found", depends, "6.12", "linux-image-6.12.9+deb12-cloud-amd64"},
		{"another version with the same beginning", depends, "6.1", ""},
		{"nothing", "", "6.1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := imageName(tt.depends, tt.version)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestRetryStopsWhenInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := retry(ctx, func() error {
		tries++
		cancel()
		return errors.New("no route")
	})
	if !errors.Is(err, context.Canceled) || tries != 1 {
		t.Errorf("%d tries, error %v", tries, err)
	}
}

func TestFetchTakesWhatTheCacheHas(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	image := filepath.Join(cache, "6.1/boot/vmlinuz-6.1.0-1-cloud-amd64")
	modules := filepath.Join(cache, "6.1/lib/modules/6.1.0-1-cloud-amd64")
	for _, folder := range []string{filepath.Dir(image), modules} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	said := ""
	got, err := Fetch(t.Context(), Release{Version: "6.1"}, cache, func(text string) { said += text })
	if want := (Kernel{"6.1", image, modules}); err != nil || got != want || said != "" {
		t.Errorf("%v, %v, said %q; want %v", got, err, said, want)
	}
}

func TestOpenKernelThatIsNotWhole(t *testing.T) {
	t.Parallel()
	if k, err := openKernel("6.1", t.TempDir()); err == nil {
		t.Errorf("%v, want an error", k)
	}
}
