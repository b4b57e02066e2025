// SPDX-License-Identifier: Apache-2.0

// Package guest has Debian's cloud kernels for machines in QEMU, whose emulation is
// QEMU's own (TCG), so that it works in a machine that is virtual itself.
package guest
