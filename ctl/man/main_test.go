// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-cni/weir/ctl"
)

// Every command has a page with its examples, and the exit codes are in weirctl's.
func TestPages(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man")
	if err := write(dir, "v1"); err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{"weirctl.1": "exit code"}
	for _, cmd := range ctl.New("weirctl", "v1").Commands() {
		pages["weirctl-"+cmd.Name()+".1"] = cmd.Short
	}
	for name, says := range pages {
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		text := strings.ReplaceAll(string(page), "\\-", "-")
		if !strings.Contains(strings.Join(strings.Fields(text), " "), says) || !strings.Contains(text, ".SH EXAMPLE") {
			t.Errorf("%s lacks %q or examples:\n%s", name, says, text)
		}
	}
	if err := write("/dev/null/man", "v1"); err == nil {
		t.Error("a file was taken for a directory")
	}
}
