// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Features tells which of the kernel's features are there that weir is better with: tcx (links
// that no pod can remove), netns_cookie (what goes round the programs can be denied to
// sockets) and ring_buffer.
func Features() map[string]bool {
	return map[string]bool{
		"tcx":          HaveTCX() == nil,
		"netns_cookie": features.HaveProgramHelper(ebpf.CGroupSockopt, asm.FnGetNetnsCookie) == nil,
		"ring_buffer":  features.HaveMapType(ebpf.RingBuf) == nil,
	}
}

// HaveTCX asks for a link on an interface that cannot be: a kernel that knows links looks
// for the interface. The error is ebpf.ErrNotSupported where there are none.
func HaveTCX() error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer program.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: program, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return l.Close()
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// Missing says what the kernel, or the rights of this process, lack to run the
// programs: nil when nothing that can be probed does. The error is ErrKernel.
func Missing() error {
	probes := []struct {
		what  string
		probe func() error
	}{
		{"programs for tc (CONFIG_NET_CLS_BPF)", func() error { return features.HaveProgramType(ebpf.SchedCLS) }},
		{"array maps", func() error { return features.HaveMapType(ebpf.Array) }},
		{"per-CPU array maps", func() error { return features.HaveMapType(ebpf.PerCPUArray) }},
		{"ring buffers", func() error { return features.HaveMapType(ebpf.RingBuf) }},
	}
	for _, p := range probes {
		switch err := p.probe(); {
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("%w: the process lacks CAP_BPF or CAP_NET_ADMIN for %s", ErrKernel, p.what)
		case errors.Is(err, ebpf.ErrNotSupported):
			return fmt.Errorf("%w: it lacks %s", ErrKernel, p.what)
		}
	}
	return nil
}
