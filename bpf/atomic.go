// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// takesCompareAndSwap asks the kernel, which does from 5.12 on. One that does not say is
// taken for new.
func takesCompareAndSwap() bool {
	compareAndSwap := asm.CmpXchg.Mem(asm.RFP, asm.R0, asm.DWord, -8)
	// It is this that the library writes, and not what it has in the opcode.
	compareAndSwap.Constant = int64(asm.CmpXchg >> 8)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 0),
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			compareAndSwap,
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err == nil {
		_ = program.Close()
	}
	return !errors.Is(err, unix.EINVAL)
}

// withoutCompareAndSwap stores where the programs compare and swap, for kernels that
// cannot. The programs do so to cut what a bucket has saved at rest: of CPUs that do it at
// the same time the last one's cut holds, and what the others let pass meanwhile is not
// paid for.
func withoutCompareAndSwap(spec *ebpf.CollectionSpec) {
	for _, program := range spec.Programs {
		for i, instruction := range program.Instructions {
			if isAtomic(instruction) && instruction.OpCode.AtomicOp() == asm.CmpXchg {
				store := asm.StoreMem(instruction.Dst, instruction.Offset, instruction.Src, instruction.OpCode.Size())
				store.Metadata = instruction.Metadata
				program.Instructions[i] = store
			}
		}
	}
}

func isAtomic(i asm.Instruction) bool {
	return i.OpCode.Class() == asm.StXClass && i.OpCode.Mode() == asm.AtomicMode
}
