// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

// TestWithoutCoarseClock proves that no program reads it, and that those that did read the
// fine one instead.
func TestWithoutCoarseClock(t *testing.T) {
	spec, err := loadWeir()
	if err != nil {
		t.Fatal(err)
	}
	coarse := map[string]int{}
	fine := map[string]int{}
	for name, program := range spec.Programs {
		coarse[name], fine[name] = countCalls(program.Instructions, asm.FnKtimeGetCoarseNs), countCalls(program.Instructions, asm.FnKtimeGetNs)
		if coarse[name] == 0 {
			t.Errorf("%s does not read the coarse clock", name)
		}
	}
	withoutCoarseClock(spec)
	for name, program := range spec.Programs {
		if n := countCalls(program.Instructions, asm.FnKtimeGetCoarseNs); n != 0 {
			t.Errorf("%s reads the coarse clock %d times", name, n)
		}
		if n := countCalls(program.Instructions, asm.FnKtimeGetNs); n != coarse[name]+fine[name] {
			t.Errorf("%s reads the fine clock %d times, not %d", name, n, coarse[name]+fine[name])
		}
	}
}

func countCalls(instructions asm.Instructions, helper asm.BuiltinFunc) int {
	n := 0
	for _, i := range instructions {
		if i.IsBuiltinCall() && i.Constant == int64(helper) {
			n++
		}
	}
	return n
}
