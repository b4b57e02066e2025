// SPDX-License-Identifier: Apache-2.0

// Command weirctl inspects weir's network attachments on a node.
package main

import (
	"os"

	"github.com/weir-cni/weir/ctl"
)

// version is set by the linker.
var version = "devel"

func main() {
	os.Exit(ctl.Run(os.Args, version, os.Stdout, os.Stderr))
}
