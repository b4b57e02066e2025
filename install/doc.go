// SPDX-License-Identifier: Apache-2.0

// Package install puts weir on a node and keeps it there: the plugin among the
// runtime's plugins, and weir's entry among its configurations, before that of the
// default network, which the entry names.
//
// At every instant whoever looks sees the old file or the new one, whole: files are
// written under another name, flushed to the disk and renamed, so that neither a
// killed agent nor a loss of power leaves half of one, and a plugin that is being
// executed is no obstacle.
//
// The entry is written once there is a default network for it to name, so that a node
// without one stays NotReady (NPWG specification 6.1), and it stays when the agent
// ends: the runtime goes on calling weir, and pods wait for the next agent rather than
// start without their networks. Only Remove takes it away. No file of anybody else is
// renamed, changed or removed.
//
// # The entry's name
//
// The entry bears the name of the default network. Runtimes know attachments by that
// name. With a name of its own, CRI-O would take the default network's file for a
// second network to which no pod is attached, and have it free the addresses of all of
// them when it collects garbage; with one name for both it uses the first file and
// passes over the other. It also finds weir when its cni_default_network names the
// default network, and pods from before weir was installed are deleted with the result
// of their own ADD. weir keeps its cache of attachments apart from the runtime's, so
// that the two do not meet. Since libcni adds the plugins that it finds in a directory
// of a network's name to that network, the entry says that its own are all.
package install
