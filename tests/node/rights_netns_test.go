// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/cni"
)

// withoutBPF has the thread, and what it starts, refused the system call bpf with
// EPERM, as container runtimes do by default.
func withoutBPF() error {
	runtime.LockOSThread() // once more than is unlocked: the thread ends with what it did
	const (
		numberAt     = 0 // of seccomp_data
		allow        = 0x7fff0000
		refuse       = 0x00050000
		modeFilter   = 2
		instructions = 4
	)
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: numberAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_BPF, SkipTrue: 1},
		bpf.RetConstant{Val: refuse | uint32(unix.EPERM)},
		bpf.RetConstant{Val: allow},
	})
	if err != nil {
		return err
	}
	filters := make([]unix.SockFilter, instructions)
	for i, r := range raw {
		filters[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	program := unix.SockFprog{Len: instructions, Filter: &filters[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, modeFilter, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("installing a seccomp filter: %w", errno)
	}
	return nil
}

// without takes capabilities from the thread, and so from what it starts.
func without(capabilities ...uintptr) func() error {
	return func() error {
		runtime.LockOSThread() // once more than is unlocked: the thread ends with what it lost
		for _, c := range capabilities {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return fmt.Errorf("dropping capability %d: %w", c, err)
			}
		}
		return nil
	}
}

// An agent that may not load programs fails an ADD with what it lacks and undoes
// it, unless the network prefers to go without its guard.
func TestNetnsAgentWithoutRights(t *testing.T) {
	tests := []struct {
		name    string
		confine func() error
		want    []string
	}{
		{"bpf is refused", withoutBPF, []string{"CAP_BPF"}},
		{"without CAP_NET_ADMIN", without(unix.CAP_NET_ADMIN), []string{"operation not permitted"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newIdleNode(t)
			n.confine = test.confine
			n.Start()
			n.Network("lan", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
			for range 2 {
				pod := n.Pod(n.unique("web"), "lan")
				before := n.Snapshot()
				_, failure := n.Add(pod)
				if failure == nil {
					t.Fatal("ADD succeeded")
				}
				checkFailure(t, failure, cni.CodeFailed, append(test.want, "pod "+n.namespace+"/"+pod.Name)...)
				before.Descriptors = n.Snapshot().Descriptors
				n.mustBe(before)
			}
		})
	}
}

// With bestEffort the same agent makes the interface and says that it has no
// guard.
func TestNetnsBestEffort(t *testing.T) {
	n := newIdleNode(t)
	n.confine = withoutBPF
	n.Start()
	if failure := n.Status(); failure == nil {
		t.Error("STATUS succeeded")
	} else {
		checkFailure(t, failure, 50, "CAP_BPF")
	}
	n.Network("lan", macvlan(object{"weir": object{"enforcement": "bestEffort"},
		"ipam": object{"type": "static", "addresses": []object{{"address": podAddress + "/24"}}}}))
	pod := n.Pod("web", "lan")
	before := n.Snapshot()
	n.mustAdd(pod)
	if answered := n.ping(n.outside, podAddress, 4); answered != 4 {
		t.Errorf("%d of 4 pings were answered", answered)
	}
	if a := n.Attachment(pod, "net1"); a.Hook != "" || a.Receive.Packets != 0 {
		t.Errorf("weirctl says %+v of an attachment without guard", a)
	}
	n.mustCheck(pod)
	n.Restart()
	n.mustCheck(pod)
	n.mustDel(pod)
	before.Descriptors = n.Snapshot().Descriptors
	n.mustBe(before)
}

// An agent that cannot do its work at all ends, and says why.
func TestNetnsAgentCannotStart(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*Node)
		want    string
	}{
		{"without CAP_SYS_ADMIN", func(n *Node) { n.confine = without(unix.CAP_SYS_ADMIN) }, "operation not permitted"},
		{"another agent has its state", (*Node).Start, "another agent uses the state directory"},
		{"no manifests", func(n *Node) { _ = os.Remove(n.path("manifests")) }, "manifests"},
		{"the metrics address is in use", func(n *Node) {
			n.machine.Do(func() error {
				l, err := net.Listen("tcp", metricsAddress)
				if err == nil {
					n.tb.Cleanup(func() { _ = l.Close() })
				}
				return err
			})
		}, metricsAddress},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newIdleNode(t)
			test.prepare(n)
			p, err := launch(n.machine, n.command(), n.confine)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-p.done:
			case <-time.After(startPatience):
				_ = unix.Kill(p.pid, unix.SIGKILL)
				t.Fatal("the agent goes on")
			}
			_, last, _ := strings.Cut(string(n.readLog()), "weir-agent: ")
			if !strings.Contains(last, test.want) {
				t.Errorf("the agent's last words are %q, want %q in them", last, test.want)
			}
		})
	}
}
