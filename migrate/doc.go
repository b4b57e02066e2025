// SPDX-License-Identifier: Apache-2.0

// Package migrate puts weir in the place of Multus on a node: it shows what would
// change, does it, and undoes it to the byte.
//
// Inspect reads Multus's configuration, of the thick or the thin deployment, and makes
// a Plan: weir's entry, what becomes of each key, and what is done to which file. It
// changes nothing. Apply writes weir's entry and then renames Multus's away. Until the
// rename, Multus's file is the first that the runtime reads, and after it weir's: there
// is no instant at which it finds another network, or none. Multus in the cluster is
// not touched; the plan's notes say what to do about it.
//
// An entry of weir's that is there already is one that an agent keeps: it would write
// it again. It stays, if it has the default network and the settings that Multus has;
// otherwise the plan has the settings that the agent lacks, and cannot be applied.
//
// Before the first change a journal is written of all of them. What has been done of it
// is seen from the files, so that Revert needs to know nothing else, whenever Apply or
// Revert itself was cut off. Where somebody has changed a file since, Revert changes
// nothing, unless it is forced to.
package migrate
