// SPDX-License-Identifier: Apache-2.0

// Package netif is the life of an interface inside a pod: created in the pod's
// network namespace, given its addresses and routes, compared with the CNI
// result that told of it, deleted. The packages of the native types, macvlan and
// ipvlan, differ only in the link that they hand to it.
//
// Nothing is kept between calls: the kernel is the state. Delete succeeds for
// what is gone already. Configure leaves undoing to its caller, for whom Delete
// undoes everything.
//
// Errors are of three kinds, found with errors.As and errors.Is: a [FieldError]
// names the field of the configuration that is at fault, a [DriftError] says
// where the kernel differs from a result, and the sentinels say why.
package netif
