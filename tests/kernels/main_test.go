// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-cni/weir/tests/kernels/guest"
)

func TestOptionsDefaults(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/cache")
	o, err := parseOptions(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.releases) != 2 || o.releases[0].Version != "6.1" || o.releases[1].Version != "6.12" {
		t.Errorf("kernels %v, want 6.1 and 6.12", o.releases)
	}
	if o.cache != "/cache/weir/kernels" || o.timeout != 15*time.Minute || len(o.packages) != 0 {
		t.Errorf("cache %s, timeout %v, packages %v", o.cache, o.timeout, o.packages)
	}
}

func TestOptionsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"unknown kernel", []string{"-kernels", "5.15"}, `no kernel "5.15"`},
		{"no kernel", []string{"-kernels", ""}, `no kernel ""`},
		{"shell in two VMs", []string{"-shell"}, "-shell needs"},
		{"no time", []string{"-timeout", "0s"}, "less than a second"},
		{"extra without a place", []string{"-with", "main.go"}, "not path=/destination"},
		{"extra in a relative place", []string{"-with", "main.go=bin/x"}, "not path=/destination"},
		{"extra over everything", []string{"-with", "main.go=//"}, "not path=/destination"},
		{"extra that is not there", []string{"-with", "missing=/x"}, "no such file"},
		{"tests that are no pattern", []string{"-run", "Test("}, "-run: error parsing"},
		{"unknown flag", []string{"-fast"}, "not defined"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := parseOptions(tt.args, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestExtra(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "weir")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := parseExtra(file + "=/opt/cni/../weir")
	if want := (extra{file, "/opt/weir"}); err != nil || got != want {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

func TestMissingToolsAreAllNamed(t *testing.T) {
	t.Parallel()
	err := checkTools(func(command string) (string, error) {
		if command == "cpio" || command == guest.QEMU {
			return "", errors.New("not found")
		}
		return "/bin/" + command, nil
	})
	want := "cpio is missing (Debian package cpio)\nqemu-system-x86_64 is missing (Debian package qemu-system-x86)"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestHelpIsNoFailure(t *testing.T) {
	t.Parallel()
	var help strings.Builder
	if status := command(t.Context(), []string{"-h"}, io.Discard, &help); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(help.String(), "-kernels") {
		t.Errorf("no flags in %q", help.String())
	}
	if status := command(t.Context(), []string{"-fast"}, io.Discard, io.Discard); status != 2 {
		t.Errorf("exit status %d for a wrong flag, want 2", status)
	}
}
