// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"errors"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/loader"
)

func (e *exam) rights() {
	if uid := os.Geteuid(); uid != 0 {
		e.fail("rights", "run this as root, on the node or in the agent's pod", "the user of ID %d sees little of what is to be looked at", uid)
		return
	}
	e.ok("rights", "root")
}

// kernel probes what the programs need, and what weir is better with. No version is
// compared: vendors take features to older kernels.
func (e *exam) kernel() {
	if err := loader.Missing(); err != nil {
		e.fail("kernel", "use a kernel with it, 6.1 or newer, or run this with the capabilities that it names", "%s: %v", release(), err)
		return
	}
	e.ok("kernel", "%s has what the programs need", release())
	e.types()
	e.better("tcx", loader.HaveTCX(), "programs are attached as links, which no pod can remove",
		"guards are filters, which a privileged pod can remove until the agent puts them back", "use kernel 6.6 or newer")
	e.better("sockets", features.HaveProgramHelper(ebpf.CGroupSockopt, asm.FnGetNetnsCookie),
		"programs on sockets can tell network namespaces apart", "pods can have sockets that send past their guards", "use kernel 5.15 or newer")
	e.better("ring buffer", features.HaveMapType(ebpf.RingBuf), "there are ring buffers",
		"there are no ring buffers, so that single packets cannot be reported", "use kernel 5.8 or newer")
	e.better("memory", features.HaveProgramHelper(ebpf.SocketFilter, asm.FnKtimeGetCoarseNs),
		"that of maps is charged to cgroups: RLIMIT_MEMLOCK is of no matter", "that of maps is charged to RLIMIT_MEMLOCK, which may be too low",
		"raise LimitMEMLOCK of the agent, or use kernel 5.11 or newer")
	e.jit()
}

func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "this kernel"
	}
	text, _, _ := bytes.Cut(name.Release[:], []byte{0})
	return "Linux " + string(text)
}

const kernelTypes = "/sys/kernel/btf/vmlinux"

func (e *exam) types() {
	if _, err := os.Stat(kernelTypes); err != nil {
		e.fail("types", "use a kernel with CONFIG_DEBUG_INFO_BTF", "the kernel does not describe its types (BTF): %v", err)
		return
	}
	e.ok("types", "the kernel describes its types (BTF)")
}

// better is a feature that can be done without.
func (e *exam) better(check string, err error, with, without, advice string) {
	switch {
	case err == nil:
		e.ok(check, "%s", with)
	case errors.Is(err, ebpf.ErrNotSupported):
		e.warn(check, advice, "%s", without)
	default:
		e.warn(check, "run this as root", "it cannot be probed: %v", err)
	}
}

// jitSwitch is 0 where programs are interpreted.
const jitSwitch = "/proc/sys/net/core/bpf_jit_enable"

func (e *exam) jit() {
	value, err := os.ReadFile(jitSwitch)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.ok("compiler", "there is no switch for it here: %s is seen in the node's network namespace alone", jitSwitch)
	case err != nil:
		e.warn("compiler", "run this as root", "%v", err)
	case string(bytes.TrimSpace(value)) == "0":
		e.warn("compiler", "sysctl net.core.bpf_jit_enable=1", "programs are interpreted, which is slow: %s is 0", jitSwitch)
	default:
		e.ok("compiler", "programs are compiled")
	}
}

// filesystem looks at where pins are.
func (e *exam) filesystem() {
	var about unix.Statfs_t
	err := unix.Statfs(e.BPFDir, &about)
	switch {
	case errors.Is(err, unix.ENOENT):
		e.fail("bpffs", "start an agent, which makes it, or name another with --bpf-dir", "%s is not there", e.BPFDir)
	case err != nil:
		e.fail("bpffs", "run this as root", "%s: %v", e.BPFDir, err)
	case about.Type != unix.BPF_FS_MAGIC:
		e.fail("bpffs", "mount -t bpf bpf /sys/fs/bpf, or have it mounted in this container", "%s is not in a bpffs", e.BPFDir)
	default:
		e.ok("bpffs", "%s is in a bpffs", e.BPFDir)
	}
}
