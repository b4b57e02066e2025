// SPDX-License-Identifier: Apache-2.0

// Package cni is the meta plugin: it turns a request of the container runtime
// into attachments. It reads weir's configuration and the pod's annotation,
// plans every delegate, validates the whole plan before anything is touched,
// carries it out in order, and undoes it in reverse when a step fails.
//
// Two records hold what was done: the sandbox's file in the state directory,
// written before the first change and after the last, and the pins of each
// guard. DEL, CHECK and GC work from them alone; they need neither the pod nor
// its networks to exist.
//
// Errors are CNI errors (spec 1.1.0, "Error"): the code says what the runtime
// may do, the message names the pod, the network and the field or step.
//
// Imports: cni -> ipvlan, macvlan, ipam, netif, netns, loader, state, api.
package cni
