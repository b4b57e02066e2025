// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
)

const otherMAC = "02:00:5e:00:53:07"

// lanObject is a macvlan on eth1 with the pod's address.
func lanObject() object {
	return object{"type": "macvlan", "master": "eth1", "ipam": object{
		"type": "static", "addresses": []object{{"address": podAddress + "/24"}},
	}}
}

// A list whose first plugin is native runs that in process and the others behind
// it, in every version that hands results on; the guard follows what they change.
func TestNetnsPluginsBehindANativeOne(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t)
			warmUp(n)
			idle := n.idle()
			n.Network("lan", listOf(version, lanObject(), withFields(n.playing(), object{
				"newMAC": otherMAC, "capabilities": object{"portMappings": true},
			})))
			pod := n.Pod("web", `[{"name":"lan","portMappings":[{"hostPort":80,"containerPort":8080}]}]`)
			before := n.with(idle, pod)
			n.mustAdd(pod)
			n.checkGiven(t, "ADD net1", true)
			if answered := n.ping(n.outside, podAddress, 2); answered != 2 {
				t.Errorf("%d of 2 pings were answered: the guard does not know the new MAC", answered)
			}
			if got := n.Attachment(pod, "net1"); got.MAC != otherMAC {
				t.Errorf("weirctl says MAC %s", got.MAC)
			}
			n.mustCheck(pod)
			if version != "0.3.1" { // which has no CHECK
				n.checkGiven(t, "CHECK net1", true)
			}
			n.mustDel(pod)
			n.checkGiven(t, "DEL net1", version != "0.3.1")
			n.mustBe(before)
		})
	}
}

// The reference's tuning plugin finds what it tunes.
func TestNetnsTuning(t *testing.T) {
	n := newNode(t)
	if err := os.Symlink(referencePlugins(t)+"/tuning", n.path("bin/tuning")); err != nil {
		t.Fatal(err)
	}
	n.Network("lan", listOf("1.0.0", lanObject(), object{"type": "tuning", "mac": otherMAC, "sysctl": object{"net.ipv4.conf.IFNAME.rp_filter": "2"}}))
	pod := n.Pod("web", "lan")
	before := n.with(n.idle(), pod)
	n.mustAdd(pod)
	pod.Do(func() error {
		value, err := os.ReadFile("/proc/sys/net/ipv4/conf/net1/rp_filter")
		if strings.TrimSpace(string(value)) != "2" {
			t.Errorf("rp_filter is %s", value)
		}
		return err
	})
	if answered := n.ping(n.outside, podAddress, 2); answered != 2 {
		t.Errorf("%d of 2 pings were answered", answered)
	}
	n.mustCheck(pod)
	n.mustDel(pod)
	n.mustBe(before)
}

// checkGiven makes sure that the plugin behind was called once, with the result of
// the one before it and with the capability that it declares.
func (n *Node) checkGiven(t *testing.T, call string, previous bool) {
	t.Helper()
	notes := n.notes()
	if got := commandsOf(notes); got != call {
		t.Fatalf("calls %q, want %q", got, call)
	}
	result := notes[0].Previous
	if !previous {
		return
	}
	if len(result.Interfaces) != 1 || result.Interfaces[0].Name != "net1" || len(result.IPs) != 1 {
		t.Errorf("%s: the previous result is %v", call, result)
	}
	if notes[0].RuntimeConfig["portMappings"] == nil {
		t.Errorf("%s: the capabilities are %v", call, notes[0].RuntimeConfig)
	}
}

// Behind or before, a plugin that fails has all undone, and says why.
func TestNetnsPluginBehindFails(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	idle := n.idle()
	n.Network("lan", listOf("1.0.0", lanObject(), withFields(n.playing(), object{"fail": "ADD"})))
	pod := n.Pod("web", "lan")
	before := n.with(idle, pod)
	_, failure := n.Add(pod)
	if failure == nil {
		t.Fatal("ADD succeeded")
	}
	checkFailure(t, failure, 131, "/lan (net1)", "out of luck", "a word on standard error")
	if got := commandsOf(n.notes()); got != "ADD net1, DEL net1" {
		t.Errorf("calls %q", got)
	}
	n.mustBe(before)
}

// A plugin that hangs is killed, with what it has started, when its time is up.
// Meanwhile it holds up nobody else.
func TestNetnsPluginHangs(t *testing.T) {
	n := newIdleNode(t)
	n.flags = []string{"--delegate-timeout", "6s"}
	n.Start()
	warmUp(n)
	idle := n.idle()
	n.Network("slow", listOf("1.0.0", lanObject(), withFields(n.playing(), object{"hang": "ADD"})))
	n.Network("lan", macvlan(nil))
	slow, other := n.Pod("slow", "slow"), n.Pod("web", "lan")
	before := n.with(n.with(idle, slow), other)
	hangs := make(chan *types.Error, 1)
	go func() { hangs <- second(n.Add(slow)) }()
	n.await("the plugin to hang", func() bool { return exists(n.path("notes")) })
	if len(executedFor(t, slow)) == 0 {
		t.Error("no process of the plugin is found")
	}
	n.mustAdd(other)
	n.mustDel(other)
	select {
	case failure := <-hangs:
		t.Fatalf("the plugin that hangs held up another pod: %v", failure)
	default:
	}
	failure := <-hangs
	if failure == nil {
		t.Fatal("ADD succeeded")
	}
	checkFailure(t, failure, types.ErrTryAgainLater, "/slow (net1)", "deadline")
	n.mustBe(before)
	n.await("all that was executed to end", func() bool { return len(executedFor(t, slow)) == 0 })
}

// executedFor are the processes that were executed for a pod, and their children.
func executedFor(t *testing.T, p *Pod) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		environ, _ := os.ReadFile(file) // one that has ended meanwhile has none
		if bytes.Contains(environ, []byte("CNI_CONTAINERID="+p.ID)) {
			found = append(found, file)
		}
	}
	return found
}

// runtime is a libcni runtime on the node, as Multus is one: it knows of weir only
// what its plugin list says.
func (n *Node) runtime() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{n.binDir, filepath.Dir(n.bin.weir)}, n.path("cache"), nil)
}

func (p *Pod) runtimeConf(ifname string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: p.ID, NetNS: p.Path(), IfName: ifname, Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", p.Name},
	}}
}

// made gives a pod an interface as another plugin would, and its result.
func (n *Node) made(p *Pod, ifname, address string) *current.Result {
	n.tb.Helper()
	parent := n.machine.Link("eth1")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "t"+ifname, parent.Attrs().Index
	link := &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	fd, err := os.Open(p.Path())
	if err != nil {
		n.tb.Fatal(err)
	}
	defer fd.Close()
	h := n.machine.Netlink()
	if err := h.LinkAdd(link); err != nil {
		n.tb.Fatal(err)
	}
	if err := h.LinkSetNsFd(n.machine.Link(attrs.Name), int(fd.Fd())); err != nil {
		n.tb.Fatal(err)
	}
	if err := p.Netlink().LinkSetName(p.Link(attrs.Name), ifname); err != nil {
		n.tb.Fatal(err)
	}
	p.Address(ifname, address+"/24")
	p.Up(ifname)
	return &current.Result{
		CNIVersion: "1.0.0",
		Interfaces: []*current.Interface{{Name: ifname, Mac: p.Link(ifname).Attrs().HardwareAddr.String(), Sandbox: p.Path()}},
		IPs:        []*current.IPConfig{{Interface: current.Int(0), Address: *mustIPNet(address + "/24")}},
	}
}

// chainedList is a list in which weir stands behind a plugin whose result is given.
func (n *Node) chainedList(previous *current.Result) *libcni.NetworkConfigList {
	n.tb.Helper()
	conf := object{"cniVersion": "1.0.0", "name": "chained", "plugins": []any{object{"type": "weir", "socket": n.socket()}}}
	if previous != nil {
		conf["plugins"].([]any)[0].(object)["prevResult"] = previous
	}
	list, err := libcni.ConfListFromBytes([]byte(toJSON(n.tb, conf)))
	if err != nil {
		n.tb.Fatal(err)
	}
	return list
}

// Behind another plugin weir makes nothing, returns that plugin's result, and
// guards and counts, each interface of a container by itself.
func TestNetnsChained(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	pod := n.newPod("web")
	addresses := map[string]string{"net1": podAddress, "net2": "198.51.100.9"}
	cni := n.runtime()
	lists := map[string]*libcni.NetworkConfigList{}
	for ifname, address := range addresses {
		lists[ifname] = n.chainedList(n.made(pod, ifname, address))
	}
	before := n.idle()
	for ifname, address := range addresses {
		result, err := cni.AddNetworkList(t.Context(), lists[ifname], pod.runtimeConf(ifname))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := current.NewResultFromResult(result); err != nil || got.Interfaces[0].Name != ifname || got.IPs[0].Address.IP.String() != address {
			t.Errorf("the result is %v, %v", result, err)
		}
	}
	for ifname := range addresses {
		a := n.Attachment(pod, ifname)
		if a.Network != "chained" || a.Pod.Namespace != "shop" || a.Type != "macvlan" || a.Hook == "" {
			t.Errorf("weirctl says %+v", a)
		}
		for _, s := range spoofsOf(t, pod.Link(ifname).Attrs().HardwareAddr) {
			pod.Send(ifname, s.frame)
		}
		if got := n.Attachment(pod, ifname).Dropped; len(got) < 4 {
			t.Errorf("%s: of spoofs, weirctl says %v", ifname, got)
		}
	}
	if answered := n.ping(n.outside, podAddress, 2); answered != 2 {
		t.Errorf("%d of 2 pings were answered", answered)
	}
	for ifname := range addresses {
		if err := cni.CheckNetworkList(t.Context(), lists[ifname], pod.runtimeConf(ifname)); err != nil {
			t.Error(err)
		}
	}
	n.Restart()
	n.chainedDel(t, pod, lists["net1"], "net1")
	if all, err := n.Attachments(); err != nil || len(all) != 1 || all[0].Interface != "net2" {
		t.Errorf("after DEL of net1 weirctl says %v, %v", all, err)
	}
	n.chainedDel(t, pod, lists["net2"], "net2")
	n.mustBe(before)
}

// chainedDel is a DEL, twice.
func (n *Node) chainedDel(t *testing.T, pod *Pod, list *libcni.NetworkConfigList, ifname string) {
	t.Helper()
	for range 2 {
		if err := n.runtime().DelNetworkList(t.Context(), list, pod.runtimeConf(ifname)); err != nil {
			t.Errorf("DEL of %s: %v", ifname, err)
		}
	}
	n.checkNoPrograms(t, pod, ifname)
}

func (n *Node) checkNoPrograms(t *testing.T, pod *Pod, ifname string) {
	t.Helper()
	qdiscs, err := pod.Netlink().QdiscList(pod.Link(ifname))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			t.Errorf("%s still has a clsact qdisc", ifname)
		}
	}
}

func TestNetnsChainedBadInput(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	idle := n.idle()
	pod := n.newPod("web")
	before := n.with(idle, pod)
	tests := []struct {
		name     string
		previous *current.Result
		says     string
	}{
		{"first in its list", nil, "plugin before it"},
		{"an interface that nobody made", &current.Result{CNIVersion: "1.0.0"}, "net1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n.within(t)
			_, err := n.runtime().AddNetworkList(t.Context(), n.chainedList(test.previous), pod.runtimeConf("net1"))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want %q", err, test.says)
			}
			n.mustBe(before)
		})
	}
}

// GC takes away what the runtime does not list of its own network, and nothing of
// another's; chained attachments are told apart by interface.
func TestNetnsGCKeepsToItsNetwork(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(nil))
	whole, chained := n.Pod("web", "lan"), n.newPod("chained")
	n.mustAdd(whole)
	cni := n.runtime()
	lists := map[string]*libcni.NetworkConfigList{}
	for ifname, address := range map[string]string{"net1": podAddress, "net2": "192.168.122.189"} {
		lists[ifname] = n.chainedList(n.made(chained, ifname, address))
		if _, err := cni.AddNetworkList(t.Context(), lists[ifname], chained.runtimeConf(ifname)); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...string) {
		t.Helper()
		all, err := n.Attachments()
		var got []string
		for _, a := range all {
			got = append(got, a.Pod.Name+" "+a.Interface)
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("attachments %v, %v, want %v", got, err, want)
		}
	}
	gc := func(network string, valid ...types.GCAttachment) {
		t.Helper()
		c := call{command: "GC", config: object{"cniVersion": "1.1.0", "name": network, "type": "weir", "socket": n.socket()}}
		if network == "weir" {
			c.config = n.config()
		}
		c.config["cni.dev/valid-attachments"] = append([]types.GCAttachment{}, valid...)
		if _, failure := n.Call(c); failure != nil {
			t.Errorf("GC of %s: %v", network, failure)
		}
	}
	gc("another")
	expect("chained net1", "chained net2", "web net1")
	gc("weir", types.GCAttachment{ContainerID: whole.ID, IfName: "eth0"})
	expect("chained net1", "chained net2", "web net1")
	gc("chained", types.GCAttachment{ContainerID: chained.ID, IfName: "net2"}, types.GCAttachment{ContainerID: whole.ID, IfName: "eth0"})
	expect("chained net2", "web net1")
	gc("weir", types.GCAttachment{ContainerID: whole.ID, IfName: "eth7"})
	expect("chained net2")
	gc("chained")
	expect()
}

// GC reaches the plugins of the default network, with the runtime's list, and
// leaves alone what a pod has of another network by the same name.
func TestNetnsGCReachesTheDefaultNetwork(t *testing.T) {
	n := newNode(t)
	fields := n.playing()
	n.Network("lan", listOf("1.1.0", object{"type": "macvlan", "master": "eth1"}))
	pod := n.Pod("web", "lan")
	add := n.of("ADD", pod)
	add.config["delegates"] = []any{json.RawMessage(listOf("1.1.0", fields))}
	if _, failure := n.Call(add); failure != nil {
		t.Fatal(failure)
	}
	n.notes()
	gc := call{command: "GC", config: n.config()}
	gc.config["delegates"] = add.config["delegates"]
	gc.config["cni.dev/valid-attachments"] = []types.GCAttachment{{ContainerID: pod.ID, IfName: "eth0"}}
	if _, failure := n.Call(gc); failure != nil {
		t.Fatal(failure)
	}
	if got := commandsOf(n.notes()); strings.TrimSpace(got) != "GC" {
		t.Errorf("calls %q", got)
	}
	if got := n.Attachment(pod, "net1"); got.Hook == "" {
		t.Errorf("weirctl says %+v", got)
	}
	gc.config["cni.dev/valid-attachments"] = []types.GCAttachment{}
	if _, failure := n.Call(gc); failure != nil {
		t.Fatal(failure)
	}
	if got := commandsOf(n.notes()); got != "DEL eth0, GC " {
		t.Errorf("calls %q", got)
	}
	if got := interfacesOf(t, pod); len(got) != 0 {
		t.Errorf("the pod still has %v", got)
	}
}
