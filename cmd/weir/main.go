// SPDX-License-Identifier: Apache-2.0

// Command weir is the CNI plugin that a container runtime executes.
package main

import (
	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/weir-cni/weir/shim"
)

// version is set by the linker.
var version = "devel"

func main() {
	skel.PluginMainFuncs(shim.Functions(),
		cniversion.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"),
		"weir "+version+": extra pod interfaces, guarded and counted; a container runtime executes this with CNI_COMMAND set")
}
