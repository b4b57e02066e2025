// SPDX-License-Identifier: Apache-2.0

// Package segment decides who of a network may talk to whom, as private VLANs do it (RFC
// 5517). It is pure: what it decides is put into the programs' tables by others.
package segment
