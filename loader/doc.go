// SPDX-License-Identifier: Apache-2.0

// Package loader puts the programs of bpf on an interface and keeps them there:
// it loads, attaches, pins, reopens, checks and removes them, and reads their
// counters. It knows nothing of Kubernetes or CNI.
//
// What guards one attachment is a Guard. Its programs and maps are pinned in a
// directory of their own in bpffs, so that they outlive the process: a Guard
// may be closed at any time and opened again from its pins.
//
// The programs are attached as tcx links (kernel 6.6 and newer), which no pod
// can remove and which survive everything but the interface. Making a tcx link
// waits for two RCU grace periods, some 25 ms in which the kernel holds the
// lock of all network configuration, so Attach uses a clsact filter, in force
// within a fraction of a millisecond, and Promote replaces it by links behind
// the answer. No packet passes between the two uncounted, unguarded or twice.
// Older kernels keep the filter.
//
// Imports: loader -> netns, bpf.
package loader
