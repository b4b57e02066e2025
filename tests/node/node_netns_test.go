// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/tests/lan"
)

// Addresses of the LAN that eth1 is on.
const (
	outsideAddress  = "192.168.122.1"
	outsideAddress6 = "2001:db8:122::1"
)

// Node is a machine with an agent: eth0 and eth1 lead to eth0 and eth1 of the
// outside host. The default network is a macvlan on eth0.
type Node struct {
	tb               testing.TB
	bin              *binaries
	machine, outside *lan.Host
	dir, bpfDir      string
	// binDir is where the agent looks for executed plugins.
	binDir string
	// namespace is that of all pods and networks; no other node has it.
	namespace string
	// flags are further ones of the agent.
	flags []string
	// environment has further variables of the agent.
	environment []string
	// confine takes rights from the agent; nil for none.
	confine func() error
	log     *os.File
	agent   *process
	pods    []*Pod
	named   int
}

// Pod is a pod that the agent may know.
type Pod struct {
	*lan.Host
	Name string
	// ID is the container's.
	ID string
	// UID is what the runtime says that the cluster knows the pod by; optional.
	UID string
}

var nodes atomic.Uint32

// newNode makes a node whose agent runs.
func newNode(tb testing.TB) *Node {
	tb.Helper()
	n := newIdleNode(tb)
	n.Start()
	return n
}

// newIdleNode makes a node whose agent is still to be started.
func newIdleNode(tb testing.TB) *Node {
	tb.Helper()
	name := fmt.Sprintf("weir-test-%d-%d", os.Getpid(), nodes.Add(1))
	n := &Node{
		tb: tb, bin: built(tb), dir: tb.TempDir(), namespace: name, bpfDir: "/sys/fs/bpf/" + name,
		machine: lan.NewHost(tb), outside: lan.NewHost(tb),
	}
	n.binDir = n.path("bin")
	cleanUp(tb, n.bpfDir)
	n.prepare()
	tb.Cleanup(func() {
		n.Stop()
		n.judgeLog()
		_ = n.log.Close()
	})
	return n
}

// within has a subtest judged by what the node finds, until that subtest ends.
func (n *Node) within(tb testing.TB) {
	whole := n.tb
	n.tb = tb
	tb.Cleanup(func() { n.tb = whole })
}

func (n *Node) prepare() {
	n.tb.Helper()
	if err := loader.EnsureFilesystem(n.bpfDir); err != nil {
		n.tb.Fatal(err)
	}
	for _, dir := range []string{"manifests", "leases", "bin"} {
		if err := os.Mkdir(n.path(dir), 0o755); err != nil {
			n.tb.Fatal(err)
		}
	}
	var err error
	if n.log, err = os.OpenFile(n.path("agent.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		n.tb.Fatal(err)
	}
	for _, eth := range []string{"eth0", "eth1"} {
		lan.Join(n.tb, n.machine, eth, n.outside, eth)
	}
	n.outside.Address("eth1", outsideAddress+"/24", outsideAddress6+"/64")
}

func (n *Node) path(name string) string { return filepath.Join(n.dir, name) }
func (n *Node) socket() string          { return n.path("weir.sock") }

// Write writes a file of the node's directory, whole or not at all.
func (n *Node) Write(name, content string, mode os.FileMode) {
	n.tb.Helper()
	temporary := n.path(name + ".tmp")
	if err := os.WriteFile(temporary, []byte(content), mode); err != nil {
		n.tb.Fatal(err)
	}
	if err := os.Rename(temporary, n.path(name)); err != nil {
		n.tb.Fatal(err)
	}
}

type object = map[string]any

func (n *Node) writeObject(file string, o object) {
	n.tb.Helper()
	n.Write("manifests/"+file+".json", toJSON(n.tb, o), 0o600)
}

func toJSON(tb testing.TB, value any) string {
	tb.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

// Network writes a NetworkAttachmentDefinition with a configuration.
func (n *Node) Network(name, config string) {
	n.tb.Helper()
	n.writeObject("network-"+name, object{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": object{"namespace": n.namespace, "name": name},
		"spec":     object{"config": config},
	})
}

// Pod makes a pod with a value of the annotation k8s.v1.cni.cncf.io/networks.
func (n *Node) Pod(name, networks string) *Pod {
	n.tb.Helper()
	n.writeObject("pod-"+name, n.podObject(name, networks))
	return n.newPod(name)
}

// unique is a name that no other pod of the node has had.
func (n *Node) unique(prefix string) string {
	n.named++
	return fmt.Sprintf("%s-%d", prefix, n.named)
}

func (n *Node) podObject(name, networks string) object {
	return object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": object{
			"namespace": n.namespace, "name": name,
			"annotations": object{"k8s.v1.cni.cncf.io/networks": networks},
		},
	}
}

// newPod makes the sandbox of a pod and tells the agent nothing.
func (n *Node) newPod(name string) *Pod {
	n.tb.Helper()
	hash := sha256.Sum256([]byte(n.namespace + "/" + name))
	p := &Pod{Host: lan.NewHost(n.tb), Name: name, ID: hex.EncodeToString(hash[:])}
	n.pods = append(n.pods, p)
	return p
}

// macvlan is the configuration of a macvlan on eth1 with further fields.
func macvlan(fields object) string {
	return config(object{"type": "macvlan", "master": "eth1"}, fields)
}

// config is a network's configuration of version 1.0.0, or what fields say.
func config(base, fields object) string {
	all := object{"cniVersion": "1.0.0"}
	for _, from := range []object{base, fields} {
		for key, value := range from {
			all[key] = value
			if value == nil {
				delete(all, key)
			}
		}
	}
	data, err := json.Marshal(all)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// hostLocal is an ipam section that hands out the addresses of a subnet.
func (n *Node) hostLocal(subnet string) object {
	return object{"type": "host-local", "dataDir": n.path("leases"), "ranges": []any{[]any{object{"subnet": subnet}}}}
}
