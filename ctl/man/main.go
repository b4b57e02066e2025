// SPDX-License-Identifier: Apache-2.0

// Command man writes the manual pages of weirctl, one for each command. They are made of
// the commands' own help.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra/doc"

	"github.com/weir-cni/weir/ctl"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: man DIRECTORY VERSION")
		os.Exit(ctl.ExitUsage)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(ctl.ExitFailed)
	}
}

// write writes the pages into a directory, which it makes.
func write(dir, version string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := ctl.New("weirctl", version)
	cmd.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "1", Source: "weir " + version, Manual: "weir"}
	if err := doc.GenManTree(cmd, header, dir); err != nil {
		return fmt.Errorf("writing the manual pages into %s: %w", dir, err)
	}
	return nil
}
