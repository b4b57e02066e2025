// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

func TestWithoutCompareAndSwap(t *testing.T) {
	t.Parallel()
	spec, err := loadWeir()
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		for _, program := range spec.Programs {
			for _, instruction := range program.Instructions {
				if isAtomic(instruction) &&
					instruction.OpCode.AtomicOp() != asm.AddAtomic {
					n++
				}
			}
		}
		return n
	}
	if count() == 0 {
		t.Error("the programs compare and swap nowhere: this is in vain")
	}
	withoutCompareAndSwap(spec)
	if n := count(); n != 0 {
		t.Errorf("%d instructions are left that old kernels lack", n)
	}
}
