// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

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
