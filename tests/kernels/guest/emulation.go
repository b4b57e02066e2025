// SPDX-License-Identifier: Apache-2.0

package guest

// QEMU is the emulator's command.
const QEMU = "qemu-system-x86_64"

// Emulation returns the arguments by which these kernels run reliably in it. KVM is
// not used, since it hangs in some virtual machines; neither is the CPU model max,
// which panics.
//
// All CPUs share one thread, because with a thread each QEMU 7.2 now and then
// runs code that the kernel has patched meanwhile, and hangs; with two VMs on
// two cores it is no slower. CMPXCHG16B is taken away, since QEMU 7.2 now and
// then leaves garbage in EFLAGS after it: the slab allocator is full of it and
// has a way without. RDRAND seeds the random number generator at boot.
func Emulation() []string {
	return []string{"-accel", "tcg,thread=single", "-cpu", "Nehalem,-cx16,+rdrand"}
}
