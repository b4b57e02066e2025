// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNeedsTag(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, source string
		want         bool
	}{
		{"tagged", "// SPDX\n\n//go:build netns\n\npackage a\n", true},
		{"tagged among others", "//go:build linux && netns\n\npackage a\n", true},
		{"one of two", "//go:build netns || linux\npackage a\n", false},
		{"negated", "//go:build !netns\npackage a\n", false},
		{"another tag", "//go:build integration\npackage a\n", false},
		{"no constraint", "package a\n", false},
		{"only after the package clause", "package a\n\n//go:build netns\n", false},
		{"not readable", "//go:build netns &&\npackage a\n", false},
		{"empty", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := needsTag(tt.source); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestParseList(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "a_netns_test.go"), []byte("//go:build netns\npackage a\nfunc TestNetnsA(t *testing.T) {}\nfunc BenchmarkB(b *testing.B) {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	found, err := parseList(`{"ImportPath":"m/a","Dir":"/m/a","Module":{"Dir":"/m"},"XTestGoFiles":["a_netns_test.go"]} {"ImportPath":"m/b"}`)
	if err != nil || len(found) != 2 {
		t.Fatalf("%v, %v, want two", found, err)
	}
	want := testPackage{path: "m/a", folder: "/m/a", inside: "a"}
	if diff := cmp.Diff(want, found[0].testPackage(), cmp.AllowUnexported(testPackage{})); diff != "" {
		t.Error(diff)
	}
	found[0].Dir = folder
	for _, tt := range []struct {
		p    listed
		run  string
		want bool
	}{{found[0], "^TestNetns", true}, {found[0], "^TestKernels", false}, {found[0], "Benchmark", false}, {found[1], "", false}} {
		if got, err := tt.p.has(regexp.MustCompile(tt.run)); err != nil || got != tt.want {
			t.Errorf("%s, %s: %v, %v, want %v", tt.p.ImportPath, tt.run, got, err, tt.want)
		}
	}
	if _, err := parseList(`{"ImportPath":`); err == nil {
		t.Error("half a list was taken for one")
	}
}

func TestListPackagesWithoutTests(t *testing.T) {
	t.Parallel()
	if found, err := listPackages(t.Context(), []string{"."}, regexp.MustCompile("")); err == nil {
		t.Errorf("%v, want an error", found)
	}
	found, err := listPackages(t.Context(), []string{"./selftest"}, regexp.MustCompile("^TestKernels"))
	if err != nil || len(found) != 1 || found[0].inside != "tests/kernels/selftest" {
		t.Errorf("%v, %v, want selftest", found, err)
	}
}
