// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
)

// weirctl executes a command of weirctl's on the node.
func (n *Node) weirctl(command string, args ...string) (code int, stdout, stderr string) {
	n.tb.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(n.bin.ctl, append([]string{command, "--socket", n.socket(), "--state-dir", n.path("state"), "--bpf-dir", n.bpfDir}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	n.machine.Do(func() error {
		var exit *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
			n.tb.Fatalf("weirctl %s: %v", command, err)
		}
		return nil
	})
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// described is what weirctl says of each of a pod's interfaces.
func (n *Node) described(p *Pod, wantCode int) map[string]described {
	n.tb.Helper()
	code, out, stderr := n.weirctl("describe", n.namespace+"/"+p.Name, "-o", "json")
	var list struct{ Items []described }
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != wantCode {
		n.tb.Fatalf("exit code %d, %v: %s%s", code, err, out, stderr)
	}
	all := map[string]described{}
	for _, d := range list.Items {
		all[d.Interface] = d
	}
	return all
}

type described struct {
	Interface string
	Record    struct{ Phase string }
	Settings  struct{ Allow []string }
	Pins      []struct {
		Kind, Path string
		ID, Index  int
	}
	Commands, Problems []string
	Receive            struct{ Packets uint64 }
}

// get, describe, top and doctor tell of real pods, with an agent and without.
func TestNetnsTools(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(object{"ipam": object{"type": "static"}, "weir": object{"allow": []any{"vlan"}}}))
	n.Network("br", config(object{"type": "bridge", "bridge": "br1"}, object{"ipam": n.hostLocal("10.99.0.0/16")}))
	pod := n.Pod("web", `[{"name":"lan","ips":["`+podAddress+`/24"]},{"name":"br"}]`)
	n.mustAdd(pod)
	n.awaitHook(pod)
	if answered := n.ping(n.outside, podAddress, 3); answered != 3 {
		t.Errorf("%d of 3 pings were answered", answered)
	}
	n.installFor(t)

	checkTools := func(t *testing.T) {
		t.Helper()
		n.checkDescription(t, pod)
		code, out, _ := n.weirctl("get", "networks", "-o", "name")
		if want := n.namespace + "/br\n" + n.namespace + "/lan\n"; code != 0 || out != want {
			t.Errorf("exit code %d, networks %q", code, out)
		}
	}
	t.Run("with an agent", func(t *testing.T) {
		n.within(t)
		checkTools(t)
		n.checkReport(t, pod)
		n.checkDoctor(t, 0, nil)
	})
	t.Run("without", func(t *testing.T) {
		n.within(t)
		n.Kill()
		checkTools(t)
		n.checkDoctor(t, 1, []string{"agent"})
	})
	t.Run("drift", func(t *testing.T) {
		n.within(t)
		n.breakGuards(t, pod)
		n.checkDoctor(t, 1, []string{"agent", "leftovers", "guards"})
	})
}

func (n *Node) checkDescription(t *testing.T, pod *Pod) {
	t.Helper()
	all := n.described(pod, 0)
	lan, br := all["net1"], all["net2"]
	if len(all) != 2 || lan.Record.Phase != "ready" || !slices.Equal(lan.Settings.Allow, []string{"vlan"}) || lan.Receive.Packets < 3 {
		t.Errorf("%+v", all)
	}
	if len(lan.Problems)+len(br.Problems) > 0 {
		t.Errorf("problems %v, %v", lan.Problems, br.Problems)
	}
	for _, d := range all {
		kinds := map[string]int{}
		for _, p := range d.Pins {
			kinds[p.Kind]++
		}
		if kinds["map"] < 3 || kinds["prog"] != 2 {
			t.Errorf("%s: pins %+v", d.Interface, d.Pins)
		}
		if hasGo() { // the VM has no bpftool
			n.checkCommands(t, d.Commands[:2])
		}
	}
	if _, page, _ := n.weirctl("describe", pod.Name); !strings.Contains(page, "net1 of "+n.namespace+"/web on "+n.namespace+"/lan\n") ||
		!strings.Contains(page, "allow [\"vlan\"]") {
		t.Errorf("the page is\n%s", page)
	}
}

// checkReport looks into a report for what only a real agent has.
func (n *Node) checkReport(t *testing.T, pod *Pod) {
	t.Helper()
	n.Write("conf/90-other.conf", `{"cniVersion":"1.0.0","name":"other","type":"bridge","token":"hunter2"}`, 0o600)
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	code, out, stderr := n.weirctl("bugreport", file, "--cni-conf-dir", n.path("conf"), "--cni-bin-dir", n.binDir)
	if !hasGo() && code == 3 {
		code = 0 // the VM has its kernel's configuration nowhere
	}
	if code != 0 {
		t.Errorf("exit code %d, %s%s", code, out, stderr)
	}
	text, err := exec.Command("tar", "xzOf", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"weir_attachments 2", `"weir_egress"`, pod.ID, `"check": "guards"`, "(redacted)"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("the report does not tell %s", want)
		}
	}
	if bytes.Contains(text, []byte("hunter2")) {
		t.Error("the report tells a secret")
	}
}

// checkCommands has each command show what it is said to.
func (n *Node) checkCommands(t *testing.T, commands []string) {
	t.Helper()
	for _, command := range commands {
		var out []byte
		var err error
		n.machine.Do(func() error {
			out, err = exec.Command("sh", "-c", command).CombinedOutput()
			return nil
		})
		if err != nil || !bytes.Contains(out, []byte("weir_egress")) && !bytes.Contains(out, []byte("allowed")) {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
}

// installFor puts the plugin and weir's entry where doctor looks.
func (n *Node) installFor(t *testing.T) {
	t.Helper()
	if err := os.Mkdir(n.path("conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	entry := toJSON(t, object{"cniVersion": "1.0.0", "name": "weir", "plugins": []any{n.config()}})
	n.Write("conf/00-weir.conflist", entry, 0o600)
	plugin, err := os.ReadFile(n.bin.weir)
	if err != nil {
		t.Fatal(err)
	}
	n.Write("bin/weir", string(plugin), 0o755)
}

// checkDoctor has weirctl doctor find fault with some matters and no others. What the
// kernel lacks of what is not needed is a warning of its own.
func (n *Node) checkDoctor(t *testing.T, wantCode int, want []string) {
	t.Helper()
	code, out, stderr := n.weirctl("doctor", "-o", "json", "--cni-conf-dir", n.path("conf"), "--cni-bin-dir", n.binDir)
	var diagnosis struct {
		Items []struct{ Check, Status, Message, Advice string }
	}
	if err := json.Unmarshal([]byte(out), &diagnosis); err != nil {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	optional := []string{"tcx", "sockets", "memory", "bpftool"}
	var faults []string
	for _, f := range diagnosis.Items {
		if f.Status == "ok" || f.Status == "warn" && slices.Contains(optional, f.Check) {
			continue
		}
		if !slices.Contains(faults, f.Check) {
			faults = append(faults, f.Check)
		}
	}
	if !slices.Equal(faults, want) {
		t.Errorf("faults %v, want %v: %s", faults, want, out)
	}
	if code == 3 {
		code = 0
	}
	if code != wantCode {
		t.Errorf("exit code %d, want %d", code, wantCode)
	}
}

// breakGuards takes one guard off its interface, the pins of another away, and leaves
// pins that no record speaks of.
func (n *Node) breakGuards(t *testing.T, pod *Pod) {
	t.Helper()
	guard, err := loader.Open(filepath.Join(n.bpfDir, pod.ID[:12]+"-net1"))
	if err != nil {
		t.Fatal(err)
	}
	defer guard.Close()
	ns, err := netns.Open(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := guard.Detach(loader.Place{Namespace: ns, Interface: "net1"}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(n.bpfDir, pod.ID[:12]+"-net2")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(n.bpfDir, "0123456789ab-net1"), 0o700); err != nil {
		t.Fatal(err)
	}
}
