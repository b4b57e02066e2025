// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

const (
	flannel = `{"cniVersion":"1.0.0","name":"cbr0","plugins":[
		{"type":"flannel","delegate":{"isDefaultGateway":true}},
		{"type":"portmap","capabilities":{"portMappings":true}}]}`
	calico = `{"cniVersion":"0.3.1","name":"k8s-pod-network","plugins":[
		{"type":"calico"},{"type":"bandwidth","capabilities":{"bandwidth":true}}]}`
	multus = `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus-shim","clusterNetwork":"/x"}`
)

// brisk is the pace of tests; a poll that comes so late tests that events are seen.
var brisk = pace{
	poll: 20 * time.Second, blind: 20 * time.Millisecond, pause: time.Millisecond, settle: 300 * time.Millisecond,
	report: 0, retry: 5 * time.Millisecond, retryMost: 100 * time.Millisecond,
}

// node is a node's directories, and a keeper of them.
type node struct {
	Options
	t    *testing.T
	pace pace
	log  *buffer
	end  func()

	mu      sync.Mutex
	reports []string
}

type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newNode(t *testing.T, files map[string]string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, pace: brisk, log: &buffer{}, end: func() {}}
	n.Options = Options{
		Plugin: filepath.Join(dir, "image", "weir"), BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "net.d"),
		Log: slog.New(slog.NewTextHandler(n.log, nil)),
		Report: func(reason, message string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.reports = append(n.reports, reason+": "+message)
		},
	}
	for _, d := range []string{filepath.Dir(n.Plugin), n.ConfDir} {
		n.must(os.MkdirAll(d, 0o755))
	}
	n.must(os.WriteFile(n.Plugin, []byte("the plugin"), 0o755))
	for name, content := range files {
		n.write(name, content)
	}
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) path(name string) string { return filepath.Join(n.ConfDir, name) }

func (n *node) write(name, content string) {
	n.t.Helper()
	n.must(os.WriteFile(n.path(name), []byte(content), 0o644))
}

func (n *node) remove(name string) {
	n.t.Helper()
	n.must(os.Remove(n.path(name)))
}

// start keeps the node's files until the test, or end.
func (n *node) start() *node {
	n.t.Helper()
	o, err := n.forKeep()
	n.must(err)
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k := newKeeper(o, n.pace)
		defer k.close()
		k.run(ctx)
	}()
	n.end = sync.OnceFunc(func() { cancel(); <-done })
	n.t.Cleanup(n.end)
	return n
}

func (n *node) reported(text string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, r := range n.reports {
		if strings.Contains(r, text) {
			count++
		}
	}
	return count
}

func (n *node) wait(what string, is func() bool) {
	n.t.Helper()
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
		if is() {
			return
		}
	}
	n.t.Fatalf("never: %s\nreports: %q\nlog:\n%s", what, n.reports, n.log)
}

func (n *node) waitReport(text string) {
	n.t.Helper()
	n.wait("report "+text, func() bool { return n.reported(text) > 0 })
}

// never fails the test when something comes about in a while.
func (n *node) never(what string, is func() bool) {
	n.t.Helper()
	for began := time.Now(); time.Since(began) < 150*time.Millisecond; time.Sleep(time.Millisecond) {
		if is() {
			n.t.Fatalf("%s\nreports: %q\nlog:\n%s", what, n.reports, n.log)
		}
	}
}

// names is the default network's file that the entry names; empty without an entry.
func (n *node) names() string {
	data, err := os.ReadFile(n.path(DefaultName))
	if err != nil {
		return ""
	}
	var list struct {
		Plugins []struct {
			ClusterNetwork string `json:"clusterNetwork"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal(data, &list); err != nil || len(list.Plugins) != 1 {
		return ""
	}
	return filepath.Base(list.Plugins[0].ClusterNetwork)
}

func (n *node) waitNames(file string) {
	n.t.Helper()
	n.wait("an entry that names "+file, func() bool { return n.names() == file })
}

func (n *node) files(dir string) []string {
	n.t.Helper()
	entries, err := os.ReadDir(dir)
	n.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestTheEntryIsOneThatARuntimeTakes(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.Settings = map[string]any{"socket": "/run/weir/a.sock", "systemNamespaces": []string{"kube-system", "infra"}}
	n.start().waitNames("10-flannel.conflist")
	list, err := libcni.NetworkConfFromFile(n.path(DefaultName))
	n.must(err)
	if list.Name != "cbr0" || list.CNIVersion != "1.0.0" || !list.LoadOnlyInlinedPlugins {
		t.Errorf("%s", list.Bytes)
	}
	var got map[string]any
	n.must(json.Unmarshal(list.Plugins[0].Bytes, &got))
	want := map[string]any{
		"type": "weir", "clusterNetwork": n.path("10-flannel.conflist"), "socket": "/run/weir/a.sock",
		"systemNamespaces": []any{"kube-system", "infra"}, "capabilities": map[string]any{"portMappings": true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	info, err := os.Stat(n.path(DefaultName))
	n.must(err)
	if info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	n.wait("the plugin", func() bool {
		ok, err := holds(filepath.Join(n.BinDir, "weir"), []byte("the plugin"), 0o755)
		return ok && err == nil
	})
	n.end()
	if n.names() == "" || !slices.Contains(n.files(n.BinDir), "weir") {
		t.Error("what was installed is gone when the agent ends")
	}
	if len(n.reports) > 0 {
		t.Errorf("reports: %q", n.reports)
	}
}

func TestEntryVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, given, want string }{
		{"none", "", "0.4.0"}, {"0.1.0", "0.1.0", "0.4.0"}, {"0.3.1", "0.3.1", "0.4.0"}, {"0.4.0", "0.4.0", "0.4.0"},
		{"1.0.0", "1.0.0", "1.0.0"}, {"1.1.0", "1.1.0", "1.1.0"}, {"newer than weir", "2.0.0", "1.1.0"},
		{"between two", "1.0.1", "1.0.0"}, {"short", "0.4", "0.4.0"}, {"no version", "x", "0.4.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := EntryFor(&Network{CNIVersion: c.given}, "", nil).CNIVersion; got != c.want {
				t.Errorf("%q becomes %q, want %q", c.given, got, c.want)
			}
		})
	}
	got := EntryFor(&Network{CNIVersions: []string{"0.3.1", "0.4.0", "1.1.0", "9.9.9", "x"}}, "", nil).CNIVersions
	if diff := cmp.Diff([]string{"0.4.0", "1.1.0"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no plugin", func(o *Options) { o.Plugin = "" }, "no plugin"},
		{"a path as name", func(o *Options) { o.Name = "../00-weir.conflist" }, "not the name"},
		{"a single configuration as name", func(o *Options) { o.Name = "00-weir.conf" }, "not the name"},
		{"a hidden name", func(o *Options) { o.Name = ".weir.conflist" }, "not the name"},
		{"itself as default network", func(o *Options) { o.DefaultNetwork = DefaultName }, "own entry"},
		{"clusterNetwork as setting", func(o *Options) { o.Settings = map[string]any{"clusterNetwork": "/x"} }, "is no setting"},
		{"type as setting", func(o *Options) { o.Settings = map[string]any{"type": "x"} }, "is no setting"},
		{"a setting that is no JSON", func(o *Options) { o.Settings = map[string]any{"socket": make(chan int)} }, "unsupported type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, nil)
			c.change(&n.Options)
			if err := Keep(t.Context(), n.Options); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestTheNodeStaysNotReadyWithoutADefaultNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": multus, "20-broken.conflist": `{"name":`}).start()
	n.waitReport(ReasonNoDefaultNetwork)
	n.never("an entry without a default network", func() bool { return n.names() != "" })
	n.write("10-flannel.conflist", flannel)
	n.waitNames("10-flannel.conflist")
	n.wait("the log to say that it is over", func() bool { return strings.Contains(n.log.String(), "msg=over") })
}

func TestTheEntryStaysWhenTheDefaultNetworkVanishes(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel}).start()
	n.waitNames("10-flannel.conflist")
	n.remove("10-flannel.conflist")
	n.waitReport("weir's entry stays")
	if n.names() != "10-flannel.conflist" {
		t.Error("the entry is gone")
	}
	n.write("30-calico.conflist", calico)
	n.waitNames("30-calico.conflist")
	n.waitReport(ReasonDefaultNetworkChanged)
}

func TestADefaultNetworkThatIsWrittenAnewIsWaitedFor(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel, "87-podman.conflist": calico}).start()
	n.waitNames("10-flannel.conflist")
	changed := func() bool { return n.names() != "10-flannel.conflist" }
	n.write("10-flannel.conflist", "")
	n.never("another default network while the first is written", changed)
	n.write("10-flannel.conflist", flannel)
	n.never("another default network after it", changed)
	n.remove("10-flannel.conflist")
	n.never("another default network at once", changed)
	n.waitNames("87-podman.conflist")
}

func TestAnAgentThatRestartsWaitsForTheDefaultNetworkOfBefore(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel}).start()
	n.waitNames("10-flannel.conflist")
	n.end()
	n.remove("10-flannel.conflist")
	n.write("87-podman.conflist", calico)
	n.start()
	n.never("another default network at once", func() bool { return n.names() != "10-flannel.conflist" })
	n.write("10-flannel.conflist", flannel)
	n.never("another default network", func() bool { return n.names() != "10-flannel.conflist" })
}

// Cilium renames weir's entry and the default network's file at once: without an entry
// there is nothing to wait for.
func TestNoDefaultNetworkIsWaitedForWhilePodsStartWithoutWeir(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"05-cilium.conflist": calico})
	all, err := Find(n.ConfDir)
	n.must(err)
	e := entryKeeper{Options: n.Options, settle: time.Hour, current: n.path("10-flannel.conflist")}
	e.Name = DefaultName
	if network, wait := e.choose(time.Now(), all); network == nil || wait != never {
		t.Errorf("%v, wait %v", network, wait)
	}
	n.write(DefaultName, "there")
	if network, wait := e.choose(time.Now(), all); network != nil || wait > time.Hour {
		t.Errorf("%v, wait %v", network, wait)
	}
}

func TestChangesOfTheDefaultNetworkAreFollowed(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-net.conflist": flannel}).start()
	n.waitNames("10-net.conflist")
	n.write("10-net.conflist", calico)
	n.wait("the new capabilities and name", func() bool {
		network, _ := ReadNetwork(n.path(DefaultName))
		return network != nil && network.Name == "k8s-pod-network" && cmp.Equal(network.Capabilities, []string{"bandwidth"})
	})
	n.write("05-first.conflist", flannel)
	n.waitNames("05-first.conflist")
	if n.reported(ReasonRestored) > 0 {
		t.Errorf("the agent's own changes are reported: %q", n.reports)
	}
}

func TestAGivenDefaultNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.DefaultNetwork = "30-calico.conflist"
	n.NetworkName = "multus-cni-network"
	n.start().waitReport(ReasonNoDefaultNetwork)
	n.never("another network than the given one", func() bool { return n.names() != "" })
	n.write("30-calico.conflist", multus)
	n.never("Multus as default network", func() bool { return n.names() != "" })
	n.write("30-calico.conflist", calico)
	n.waitNames("30-calico.conflist")
	network, _ := ReadNetwork(n.path(DefaultName))
	if network.Name != "multus-cni-network" {
		t.Errorf("name %q", network.Name)
	}
}

func TestADefaultNetworkOutsideTheDirectory(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	elsewhere := filepath.Join(t.TempDir(), "made", "later")
	n.DefaultNetwork = filepath.Join(elsewhere, "10-ovn.conflist")
	n.start().waitReport(ReasonNoDefaultNetwork)
	n.must(os.MkdirAll(elsewhere, 0o755))
	n.must(os.WriteFile(n.DefaultNetwork, []byte(calico), 0o644))
	n.waitNames("10-ovn.conflist")
}

func TestWhatSomebodyDoesToTheEntryIsUndone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		do     func(n *node, path string) error
		report string
	}{
		{"removed", func(_ *node, p string) error { return os.Remove(p) }, "somebody removed"},
		{"renamed by Cilium", func(_ *node, p string) error { return os.Rename(p, p+".cilium_bak") }, "cni.exclusive=false"},
		{"renamed", func(_ *node, p string) error { return os.Rename(p, p+".old") }, "somebody renamed"},
		{"truncated", func(_ *node, p string) error { return os.Truncate(p, 0) }, "somebody changed"},
		{"cut", func(_ *node, p string) error { return os.Truncate(p, 20) }, "somebody changed"},
		{"edited", func(_ *node, p string) error { return os.WriteFile(p, []byte(multus), 0o600) }, "somebody changed"},
		{"made readable for all", func(_ *node, p string) error { return os.Chmod(p, 0o644) }, "somebody changed"},
		{"replaced by a file", func(n *node, p string) error { return os.Rename(n.path("10-flannel.conflist.copy"), p) }, "somebody changed"},
		{"replaced by a link", func(n *node, p string) error {
			return errors.Join(os.Symlink(n.path("10-flannel.conflist"), n.path("l")), os.Rename(n.path("l"), p))
		}, "somebody changed"},
		{"the directory replaced", func(n *node, _ string) error {
			if err := os.Rename(n.ConfDir, n.ConfDir+".old"); err != nil {
				return err
			}
			if err := os.MkdirAll(n.ConfDir, 0o755); err != nil {
				return err
			}
			return os.WriteFile(n.path("10-flannel.conflist"), []byte(flannel), 0o644)
		}, "somebody removed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, map[string]string{"10-flannel.conflist": flannel, "10-flannel.conflist.copy": flannel}).start()
			n.waitNames("10-flannel.conflist")
			want, err := os.ReadFile(n.path(DefaultName))
			n.must(err)
			n.must(c.do(n, n.path(DefaultName)))
			n.waitReport(c.report)
			if ok, err := holds(n.path(DefaultName), want, 0o600); !ok || err != nil {
				t.Errorf("not restored: %v", err)
			}
			if got, _ := os.ReadFile(n.path("10-flannel.conflist")); string(got) != flannel {
				t.Errorf("somebody else's file was changed: %s", got)
			}
			n.never("a second restoration", func() bool { return n.reported(ReasonRestored) > 1 })
		})
	}
}

func TestAnEntryThatIsADirectoryIsReported(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.must(os.Mkdir(n.path(DefaultName), 0o755))
	n.start().waitReport(ReasonFailed)
	n.must(os.Remove(n.path(DefaultName)))
	n.waitNames("10-flannel.conflist")
}

func TestBurstsOfChangesEndRight(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel}).start()
	n.waitNames("10-flannel.conflist")
	for i := range 300 {
		n.write("10-flannel.conflist", strings.Replace(flannel, "cbr0", fmt.Sprintf("cbr%d", i), 1))
		n.write(fmt.Sprintf("50-%d.conf", i%7), `{"type":"x"}`)
		_ = os.Remove(n.path(DefaultName))
	}
	n.wait("the last state", func() bool {
		network, _ := ReadNetwork(n.path(DefaultName))
		return network != nil && network.Name == "cbr299"
	})
}

func TestTwoProgramsThatFightDoNotSpin(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.pace.report = time.Minute
	n.start().waitNames("10-flannel.conflist")
	taken := 0
	for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(time.Millisecond) {
		if os.Rename(n.path(DefaultName), n.path(DefaultName)+".cilium_bak") == nil {
			taken++
		}
	}
	// 5, 10, 20, 40, 80, then every 100 ms.
	if taken < 5 || taken > 30 {
		t.Errorf("the entry was written %d times in 2 s", taken)
	}
	if got := n.reported(ReasonRestored); got != 1 {
		t.Errorf("%d reports in less than a minute", got)
	}
	n.waitNames("10-flannel.conflist")
}

func TestASecondKeeperInTheSameDirectoriesDoesNotSpin(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	other := newNode(t, nil)
	other.BinDir, other.ConfDir = n.BinDir, n.ConfDir
	other.Settings = map[string]any{"socket": "/other"}
	other.must(os.WriteFile(other.Plugin, []byte("another plugin"), 0o755))
	n.start()
	other.start()
	time.Sleep(2 * time.Second)
	n.end()
	other.end()
	for _, text := range []string{"weir's entry is written", "the plugin is installed"} {
		if got := strings.Count(n.log.String(), text); got > 30 {
			t.Errorf("%q %d times in 2 s", text, got)
		}
	}
}

func TestFilesThatAreReadFirstAreReportedAndLeft(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": multus, "00-a.json": "{", "10-flannel.conflist": flannel}).start()
	n.waitNames("10-flannel.conflist")
	n.waitReport("runtimes read 00-a.json (cannot be used), 00-multus.conf (multus-shim) before weir's")
	n.end()
	want := []string{"00-a.json", "00-multus.conf", DefaultName, "10-flannel.conflist"}
	if diff := cmp.Diff(want, n.files(n.ConfDir)); diff != "" {
		t.Error(diff)
	}
	if n.reported(ReasonNotFirst) != 1 {
		t.Errorf("%q", n.reports)
	}
}

func TestThePluginIsKept(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel}).start()
	n.waitNames("10-flannel.conflist")
	path := filepath.Join(n.BinDir, "weir")
	for i, do := range []func() error{
		func() error { return os.Remove(path) },
		func() error { return os.WriteFile(path, []byte("the plug!n"), 0o755) },
		func() error { return os.Chmod(path, 0o644) },
	} {
		n.must(do())
		n.wait("report", func() bool { return n.reported(ReasonPluginRestored) > i })
		if ok, err := holds(path, []byte("the plugin"), 0o755); !ok || err != nil {
			t.Fatalf("%d: not restored: %v", i, err)
		}
	}
}

func TestThePluginOfANewAgentIsInstalledAndTheSameIsNot(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel}).start()
	n.waitNames("10-flannel.conflist")
	path := filepath.Join(n.BinDir, "weir")
	before, err := os.Stat(path)
	n.must(err)
	n.end()
	n.start()
	n.never("the same plugin is written again", func() bool {
		now, err := os.Stat(path)
		return err != nil || !os.SameFile(before, now)
	})
	n.end()
	n.must(os.WriteFile(n.Plugin, []byte("version 2"), 0o755))
	n.start()
	n.wait("the new plugin", func() bool { ok, _ := holds(path, []byte("version 2"), 0o755); return ok })
	if n.reported(ReasonPluginRestored) > 0 {
		t.Errorf("%q", n.reports)
	}
}

func TestAnEmptyPluginIsNotInstalled(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.must(os.Truncate(n.Plugin, 0))
	n.start().waitReport("is empty")
	n.never("an entry without a plugin", func() bool { return n.names() != "" })
	if names := n.files(n.BinDir); len(names) > 0 {
		t.Errorf("%q", names)
	}
}

func TestWhatAKilledAgentHasLeftIsRemoved(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel, temporary + "1": "half"})
	n.must(os.MkdirAll(n.BinDir, 0o755))
	n.must(os.WriteFile(filepath.Join(n.BinDir, temporary+"2"), []byte("half"), 0o755))
	n.start().waitNames("10-flannel.conflist")
	n.end()
	if diff := cmp.Diff([]string{DefaultName, "10-flannel.conflist"}, n.files(n.ConfDir)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"weir"}, n.files(n.BinDir)); diff != "" {
		t.Error(diff)
	}
}

func TestDirectoriesThatCannotBeMade(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.must(os.Remove(n.ConfDir))
	n.must(os.WriteFile(n.ConfDir, nil, 0o644))
	n.start().waitReport("not a directory")
	n.must(os.Remove(n.ConfDir))
	n.wait("the directory", func() bool { return os.MkdirAll(n.ConfDir, 0o755) == nil })
	n.write("10-flannel.conflist", flannel)
	n.waitNames("10-flannel.conflist")
}

func TestLinksAreFollowedByLooking(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.pace.poll = 20 * time.Millisecond
	target := filepath.Join(t.TempDir(), "real")
	n.must(os.WriteFile(target, []byte(flannel), 0o644))
	n.must(os.Symlink(target, n.path("10-net.conflist")))
	n.must(os.Symlink("nowhere", n.path("05-dangling.conflist")))
	n.must(os.Symlink("05-loop.conf", n.path("05-loop.conf")))
	n.must(os.Symlink(t.TempDir(), n.path("05-dir.conf")))
	n.start().waitNames("10-net.conflist")
	n.must(os.WriteFile(target, []byte(calico), 0o644))
	n.wait("the new name", func() bool {
		network, _ := ReadNetwork(n.path(DefaultName))
		return network != nil && network.Name == "k8s-pod-network"
	})
}

func TestNothingIsLeftBehindWhenTheContextEnds(t *testing.T) { //nolint:paralleltest // It counts the process's goroutines.
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	count := func() (goroutines, descriptors int) {
		files, err := os.ReadDir("/proc/self/fd")
		n.must(err)
		return runtime.NumGoroutine(), len(files)
	}
	n.start().waitNames("10-flannel.conflist") // the runtime's own poller exists from here on
	n.end()
	goroutines, descriptors := count()
	for range 5 {
		n.start()
		n.must(os.Remove(n.path(DefaultName)))
		n.waitNames("10-flannel.conflist")
		n.end()
	}
	g, d := count()
	if g > goroutines || d > descriptors {
		t.Errorf("goroutines %d -> %d, descriptors %d -> %d", goroutines, g, descriptors, d)
	}
}

func TestKeepEndsWithItsContext(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Keep(ctx, n.Options) }()
	n.waitNames("10-flannel.conflist")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	entry := func(name string) string {
		data, err := EntryFor(&Network{Name: name, Path: "/x"}, "", nil).Render()
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	chained := `{"cniVersion":"1.0.0","name":"lan","plugins":[{"type":"macvlan"},{"type":"weir"}]}`
	for _, c := range []struct {
		name    string
		files   map[string]string
		left    []string
		err     string
		plugins []string
	}{
		{"installed", map[string]string{DefaultName: entry("a"), "10-flannel.conflist": flannel}, []string{"10-flannel.conflist"}, "", nil},
		{"the default network is gone", map[string]string{DefaultName: entry("a")}, nil, "", nil},
		{"the entry is broken", map[string]string{DefaultName: `{"name":`}, nil, "", nil},
		{"an older name, a copy of Cilium's, and what was cut off", map[string]string{
			DefaultName: entry("a"), "01-weir.conflist": entry("a"), DefaultName + ".cilium_bak": entry("a"),
			temporary + "x": "half", "10-flannel.conflist.cilium_bak": flannel, "weir.txt": entry("a"),
		}, []string{"10-flannel.conflist.cilium_bak", "weir.txt"}, "", nil},
		{"somebody else's under the entry's name", map[string]string{DefaultName: flannel}, []string{DefaultName}, "", nil},
		{"weir behind another plugin", map[string]string{DefaultName: entry("a"), "20-lan.conflist": chained},
			[]string{"20-lan.conflist"}, "20-lan.conflist: take it out", []string{"weir"}},
		{"Multus", map[string]string{"00-multus.conf": multus}, []string{"00-multus.conf"}, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, c.files)
			n.must(os.MkdirAll(n.BinDir, 0o755))
			n.must(os.WriteFile(filepath.Join(n.BinDir, "weir"), []byte("x"), 0o755))
			for range 2 {
				err := Remove(n.Options)
				if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
				if diff := cmp.Diff(c.left, n.files(n.ConfDir)); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(c.plugins, n.files(n.BinDir)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
	t.Run("nothing there at all", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		if err := Remove(Options{BinDir: filepath.Join(dir, "a"), ConfDir: filepath.Join(dir, "b")}); err != nil {
			t.Error(err)
		}
	})
}

func TestReportsComeOnceAMinute(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	r := newReporter(&n.Options, time.Minute)
	now := time.Now()
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	r.happened(at(0), "A", "again")
	r.happened(at(1), "A", "again")
	r.happened(at(59), "A", "again")
	r.happened(at(60), "A", "again")
	r.is(at(0), "B", "one")
	r.is(at(1), "B", "one")
	r.is(at(2), "B", "two")  // too soon
	r.is(at(70), "B", "two") // said now
	r.is(at(71), "B", "")
	r.is(at(200), "B", "two")
	want := []string{"A: again", "B: one", "B: two", "B: two"}
	want = slices.Insert(want, 1, "A: again (3 times since the last report)")
	if diff := cmp.Diff(want, n.reports); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAGateOpensLaterEachTimeAndAtOnceAfterAQuietTime(t *testing.T) {
	t.Parallel()
	g := gate{least: time.Second, most: 4 * time.Second}
	now := time.Now()
	var waits []time.Duration
	for range 4 {
		g.pass(now)
		waits = append(waits, g.wait(now))
		now = now.Add(g.wait(now))
	}
	g.pass(now.Add(10 * time.Second))
	waits = append(waits, g.wait(now.Add(10*time.Second)))
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second, time.Second}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Error(diff)
	}
}

func TestTheOldFileStaysWhenTheNewOneIsNotRight(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.conflist")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, []byte(flannel), 0o600, CheckEntry); err == nil {
		t.Error("a file that is no entry of weir was written")
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("%s", got)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
	if err := Replace(filepath.Join(path, "y"), nil, 0o600, CheckEntry); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("%v", err)
	}
}
