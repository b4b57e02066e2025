// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a real Kubernetes cluster on this machine for tests: etcd,
// the API server with its authorisation, the controllers, the scheduler, and
// nodes with containerd and a kubelet each.
//
// A node is a small machine. It has network, mount, PID, UTS and IPC namespaces
// of its own, a root of its own on which only /usr is the machine's, read-only,
// and its own /proc, /sys, /run and bpffs. So the paths, the PIDs and the
// interfaces that a pod of the host's finds are the node's. [Node.Reboot] ends
// all that runs on it and keeps its disk.
//
// [Cluster.AddVM] adds a node that is a VM in QEMU instead, with a Debian kernel of its
// own, for what this machine's kernel lacks.
//
// Every node has three interfaces: eth0 leads to the API server and to the other
// nodes, eth1 and eth2 to two LANs, on which [Cluster.Outside] is as well. There
// is no kube-proxy and no DNS: of the services, only the API server's own works,
// and what nodes and pods say to it passes through [Cluster.API], which can be
// told to be slow, silent or gone.
//
// A package whose tests use a cluster hands its TestMain to [Suite.Main]. It
// runs the tests in PID and mount namespaces of their own, so that nothing
// outlives them, however they end. Root is needed, and a machine whose cgroups
// are those of version 1.
//
// No image is pulled and nothing of Kubernetes is downloaded as a binary: the
// first run compiles Kubernetes from the Go modules that the folder kubernetes
// names, which takes some ten minutes, into build/kubernetes of the repository.
package cluster
