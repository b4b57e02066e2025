// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weir-cni/weir/api"
)

// call is one execution of the plugin, as a runtime's.
type call struct {
	command, id, netns, ifname, args string
	config                           object
	// inNode has the plugin run in the node's namespace.
	inNode bool
}

// of is the call of a command for a pod, as a kubelet's runtime makes it.
func (n *Node) of(command string, p *Pod) call {
	return call{
		command: command, id: p.ID, netns: p.Path(), ifname: "eth0",
		args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s",
			n.namespace, p.Name, p.ID, p.UID),
		config: n.config(),
	}
}

// config is weir's own configuration.
func (n *Node) config() object {
	return object{
		"cniVersion": "1.1.0", "name": "weir", "type": "weir", "socket": n.socket(),
		"delegates": []any{object{
			"cniVersion": "1.1.0", "name": "default", "type": "macvlan", "master": "eth0",
			"ipam": n.hostLocal("10.85.0.0/16"),
		}},
	}
}

// Call executes the plugin: what it printed, and the error that it printed. It
// does not end the test, so that any goroutine may use it.
func (n *Node) Call(c call) ([]byte, *types.Error) {
	config, err := json.Marshal(c.config)
	if err != nil {
		return nil, types.NewError(types.ErrInternal, "writing the configuration", err.Error())
	}
	var out, complaints bytes.Buffer
	cmd := exec.Command(n.bin.weir)
	cmd.Env = []string{
		"CNI_COMMAND=" + c.command, "CNI_CONTAINERID=" + c.id, "CNI_NETNS=" + c.netns, "CNI_IFNAME=" + c.ifname,
		"CNI_ARGS=" + c.args, "CNI_PATH=" + n.binDir,
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(config), &out, &complaints
	run := cmd.Run
	if c.inNode {
		run = func() (err error) {
			n.machine.Do(func() error {
				err = cmd.Run()
				return nil
			})
			return err
		}
	}
	err = run()
	return out.Bytes(), printed(err, &out, &complaints)
}

func printed(err error, out, complaints *bytes.Buffer) *types.Error {
	var exit *exec.ExitError
	if err == nil {
		return nil
	}
	failure := &types.Error{}
	if !errors.As(err, &exit) || json.Unmarshal(out.Bytes(), failure) != nil {
		return types.NewError(types.ErrInternal, "the plugin printed no error", fmt.Sprintf("%v: %s%s", err, out, complaints))
	}
	return failure
}

// Add executes ADD for a pod.
func (n *Node) Add(p *Pod) ([]byte, *types.Error) { return n.Call(n.of("ADD", p)) }

// Del executes DEL for a pod.
func (n *Node) Del(p *Pod) *types.Error { return second(n.Call(n.of("DEL", p))) }

// Check executes CHECK for a pod.
func (n *Node) Check(p *Pod) *types.Error {
	c := n.of("CHECK", p)
	c.config["prevResult"] = object{"cniVersion": "1.1.0"}
	return second(n.Call(c))
}

// GC executes GC with the containers that are to stay.
func (n *Node) GC(stay ...*Pod) *types.Error {
	valid := []types.GCAttachment{}
	for _, p := range stay {
		valid = append(valid, types.GCAttachment{ContainerID: p.ID, IfName: "eth0"})
	}
	c := call{command: "GC", config: n.config()}
	c.config["cni.dev/valid-attachments"] = valid
	return second(n.Call(c))
}

// Status executes STATUS.
func (n *Node) Status() *types.Error {
	return second(n.Call(call{command: "STATUS", config: n.config()}))
}

func second[T any](_ T, err *types.Error) *types.Error { return err }

// mustAdd is an ADD that has to succeed; it returns the result.
func (n *Node) mustAdd(p *Pod) *current.Result {
	n.tb.Helper()
	out, failure := n.Add(p)
	if failure != nil {
		n.tb.Fatalf("ADD of %s: %v", p.Name, failure)
	}
	result, err := current.NewResult(out)
	if err != nil {
		n.tb.Fatalf("ADD of %s printed %s: %v", p.Name, out, err)
	}
	return result.(*current.Result)
}

// mustDel is a DEL that has to succeed.
func (n *Node) mustDel(p *Pod) {
	n.tb.Helper()
	if failure := n.Del(p); failure != nil {
		n.tb.Fatalf("DEL of %s: %v", p.Name, failure)
	}
}

// mustCheck is a CHECK that has to succeed.
func (n *Node) mustCheck(p *Pod) {
	n.tb.Helper()
	if failure := n.Check(p); failure != nil {
		n.tb.Errorf("CHECK of %s: %v", p.Name, failure)
	}
}

// ctl executes weirctl get.
func (n *Node) ctl(args ...string) ([]byte, error) {
	args = append([]string{"get", "--socket", n.socket(), "--state-dir", n.path("state"), "--bpf-dir", n.bpfDir}, args...)
	out, err := exec.Command(n.bin.ctl, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("weirctl %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// Attachments is what weirctl says of the node.
func (n *Node) Attachments() ([]api.AttachmentStatus, error) {
	out, err := n.ctl("-o", "json")
	if err != nil {
		return nil, err
	}
	var list api.AttachmentList
	err = json.Unmarshal(out, &list)
	return list.Items, err
}

// Attachment is what weirctl says of one interface of a pod.
func (n *Node) Attachment(p *Pod, ifname string) api.AttachmentStatus {
	n.tb.Helper()
	all, err := n.Attachments()
	if err != nil {
		n.tb.Fatal(err)
	}
	for _, a := range all {
		if a.Pod.Name == p.Name && a.Interface == ifname {
			return a
		}
	}
	n.tb.Fatalf("weirctl knows no %s of %s among %v", ifname, p.Name, all)
	return api.AttachmentStatus{}
}
