// SPDX-License-Identifier: Apache-2.0

// Package ipam manages the addresses of one attachment: it finds out which addresses, routes and
// DNS settings an interface gets, and gives them back. It never touches an interface.
//
// The types static and host-local run in process, with the meaning that the reference plugins give
// to their keys; any other type is a CNI plugin that is executed. host-local keeps its reservations
// in the reference plugin's files and under its lock, so that the two, and several agents, may share
// a data directory.
//
// Parse checks a configuration without changing anything. Add, Check and Del of one Plugin, and of
// several Plugins over one data directory, may run at once. A Plugin holds nothing open between
// calls. When Add fails, nothing that it reserved stays reserved; Del releases by container ID and
// interface name alone, so it also frees what a process that died within Add left behind.
//
// Everything that is wrong with the input is a FieldError around one of the package's sentinels;
// what an executed plugin answers is a *types.Error of the cni module.
//
// Deliberately stricter than the reference plugins: an address, range or route that the kernel or
// the allocator could not work with is refused by Parse; two equal addresses in one list are
// refused; static needs an address from somewhere; a second Add of an attachment that already holds
// an address changes nothing and is refused; Check wants every address to be there still. More
// lenient: host-local takes a comma-separated list in CNI_ARGS IP, as static does.
package ipam
