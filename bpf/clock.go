// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// hasCoarseClock asks the kernel, which has it from 5.11 on. One that does not say is taken
// for new.
func hasCoarseClock() bool {
	return !errors.Is(features.HaveProgramHelper(ebpf.SchedCLS, asm.FnKtimeGetCoarseNs), ebpf.ErrNotSupported)
}

// withoutCoarseClock has the programs read the fine clock, which takes longer and tells the
// same time.
func withoutCoarseClock(spec *ebpf.CollectionSpec) {
	for _, program := range spec.Programs {
		for i, instruction := range program.Instructions {
			if instruction.IsBuiltinCall() && instruction.Constant == int64(asm.FnKtimeGetCoarseNs) {
				program.Instructions[i].Constant = int64(asm.FnKtimeGetNs)
			}
		}
	}
}
