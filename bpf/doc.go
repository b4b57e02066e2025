// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the programs that guard and count an attachment: the C
// sources, the objects that bpf2go compiles from them, and the Go side of the
// layouts that both share. Building weir needs no compiler for C; `make
// generate` makes the objects anew.
//
// The C sources are dual licensed, BSD-2-Clause or GPL-2.0-only.
package bpf
