// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSettingsSurviveTheShell(t *testing.T) {
	t.Parallel()
	s := settings{kernel: "6.1", token: "weir-X", run: `^Test('a'|$HOME|"b")\b`, timeout: 90 * time.Second}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", s.script()+`printf '%s\n' "$WEIR_KERNEL" "$TOKEN" "$RUN" "$TIMEOUT" "$MODE"`).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "6.1\nweir-X\n" + s.run + "\n1m30s\ntest\n"
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Error(diff)
	}
}

func TestAddFolder(t *testing.T) {
	t.Parallel()
	from, tree := t.TempDir(), initramfs{t.TempDir()}
	if err := os.MkdirAll(filepath.Join(from, "deep/empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "deep/file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tree.extras([]extra{{from, "/opt"}, {filepath.Join(from, "deep/file"), "/etc/one"}}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/opt/deep/file", "/etc/one"} {
		if got, err := os.ReadFile(tree.root + path); err != nil || string(got) != "x" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if info, err := os.Stat(tree.root + "/opt/deep/empty"); err != nil || !info.IsDir() {
		t.Errorf("empty folder: %v", err)
	}
	if err := tree.extras([]extra{{filepath.Join(from, "missing"), "/x"}}); err == nil {
		t.Error("a file that is not there was added")
	}
}

func TestTestdataGoesWithThePackage(t *testing.T) {
	t.Parallel()
	from, tree := t.TempDir(), initramfs{t.TempDir()}
	if err := os.MkdirAll(filepath.Join(from, "testdata"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "testdata/nad.yaml"), []byte("kind"), 0o644); err != nil {
		t.Fatal(err)
	}
	packages := []testPackage{
		{folder: from, inside: "cni", binary: "/build/0.test"},
		{folder: t.TempDir(), inside: "bpf", binary: "/build/1.test"},
	}
	if err := tree.tests(packages); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(tree.root + "/weir/src/cni/testdata/nad.yaml"); err != nil || string(got) != "kind" {
		t.Errorf("testdata %q, %v", got, err)
	}
	list, err := os.ReadFile(tree.root + "/weir/tests")
	want := "/weir/bin/0.test /weir/src/cni\n/weir/bin/1.test /weir/src/bpf\n"
	if err != nil || string(list) != want {
		t.Errorf("list %q, %v, want %q", list, err, want)
	}
}
