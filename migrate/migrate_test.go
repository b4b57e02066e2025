// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/install"
)

const (
	flannel = `{"cniVersion":"1.0.0","name":"cbr0","plugins":[
		{"type":"flannel"},{"type":"portmap","capabilities":{"portMappings":true}}]}`
	thick = `{"capabilities":{"portMappings":true},"clusterNetwork":"/hostCONFDIR/10-flannel.conflist","cniVersion":"0.3.1",
		"name":"multus-cni-network","type":"multus-shim","logLevel":"verbose","logToStderr":true}`
	daemon = `{"chrootDir":"/hostroot","cniVersion":"0.3.1","logLevel":"debug","logToStderr":true,"cniConfigDir":"/host/etc/cni/net.d",
		"multusAutoconfigDir":"/host/etc/cni/net.d","multusConfigFile":"auto","socketDir":"/host/run/multus/",
		"namespaceIsolation":true,"globalNamespaces":"default,shared","metricsPort":9091,"tpyo":1}`
	thinAuto = `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus",
		"capabilities":{"portMappings":true},"cniConf":"/host/etc/cni/multus/net.d",
		"kubeconfig":"/etc/cni/net.d/multus.d/multus.kubeconfig","delegates":[` + flannel + `]}`
	thinInline = `{"cniVersion":"1.0.0","name":"node-cni","type":"multus","binDir":"/opt/other/bin","retryDeleteOnError":true,
		"delegates":[{"cniVersion":"0.3.1","name":"first","type":"bridge","capabilities":{"ips":true}},
		{"cniVersion":"0.3.1","name":"second","type":"macvlan"}]}`
)

// agents is the entry that an agent keeps on a node with flannel, with further settings.
func agents(settings string) string {
	return `{"cniVersion":"1.0.0","name":"cbr0","loadOnlyInlinedPlugins":true,"plugins":[{"type":"weir",` + settings +
		`"clusterNetwork":"CONFDIR/10-flannel.conflist","socket":"/run/weir/weir.sock","capabilities":{"portMappings":true}}]}`
}

// node is a node's directories.
type node struct {
	Options
	t *testing.T
}

func newNode(t *testing.T, files map[string]string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, Options: Options{
		ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), StateDir: filepath.Join(dir, "state"),
	}}
	n.must(os.MkdirAll(filepath.Join(n.ConfDir, "multus.d"), 0o755))
	n.must(os.MkdirAll(n.BinDir, 0o755))
	n.must(os.WriteFile(filepath.Join(n.BinDir, "weir"), []byte("x"), 0o755))
	n.write("multus.d/daemon-config.json", "{}")
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
	n.must(os.WriteFile(n.path(name), []byte(strings.ReplaceAll(content, "CONFDIR", n.ConfDir)), 0o640))
}

// plan is the node's, with nothing in the way.
func (n *node) plan() *Plan {
	n.t.Helper()
	p, err := Inspect(n.t.Context(), n.Options)
	n.must(err)
	if len(p.Problems) > 0 {
		n.t.Fatalf("in the way: %q", p.Problems)
	}
	return p
}

// revert brings everything back.
func (n *node) revert() []Operation {
	n.t.Helper()
	operations, err := Revert(n.Options)
	n.must(err)
	return operations
}

// snapshot is every file of the node: mode and content by name.
func (n *node) snapshot() map[string]string {
	n.t.Helper()
	all := map[string]string{}
	for _, dir := range []string{n.ConfDir, n.StateDir} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || err == nil && entry.IsDir() {
				return nil
			}
			data, readErr := os.ReadFile(path)
			info, statErr := os.Stat(path)
			if err := errors.Join(err, readErr, statErr); err != nil {
				return err
			}
			all[path] = info.Mode().String() + " " + string(data)
			return nil
		})
		n.must(err)
	}
	return all
}

// active is the type of the first configuration that a runtime finds: it must be one
// that can be used, at every instant.
func (n *node) active() string {
	n.t.Helper()
	files, err := libcni.ConfFiles(n.ConfDir, []string{".conf", ".conflist", ".json"})
	n.must(err)
	slices.Sort(files)
	if len(files) == 0 {
		n.t.Fatal("the runtime finds nothing")
	}
	network, err := install.ReadNetwork(files[0])
	if network == nil {
		n.t.Fatal(err)
	}
	return network.Types[0]
}

// entry is the plugin of weir's entry in a plan.
func entry(t *testing.T, p *Plan) (list *libcni.NetworkConfigList, plugin map[string]any) {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes(p.Entry)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(list.Plugins[0].Bytes, &plugin); err != nil {
		t.Fatal(err)
	}
	return list, plugin
}

func verdicts(p *Plan) map[string]Verdict {
	all := map[string]Verdict{}
	for _, k := range p.Keys {
		all[k.Name] = k.Verdict
	}
	return all
}

func TestThick(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": thick, "multus.d/daemon-config.json": daemon, "10-flannel.conflist": flannel})
	n.Settings = map[string]any{"socket": "/run/weir/other.sock"}
	p := n.plan()
	list, plugin := entry(t, p)
	if list.Name != "cbr0" || list.CNIVersion != "1.0.0" || p.Deployment != "thick" {
		t.Errorf("%s of %s", p.Entry, p.Deployment)
	}
	want := map[string]any{
		"type": "weir", "clusterNetwork": n.path("10-flannel.conflist"), "capabilities": map[string]any{"portMappings": true},
		"namespaceIsolation": true, "globalNamespaces": "default,shared", "socket": "/run/weir/other.sock",
	}
	if diff := cmp.Diff(want, plugin); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantVerdicts := map[string]Verdict{
		"capabilities": Differs, "clusterNetwork": Kept, "cniVersion": Differs, "name": Differs, "type": Differs,
		"logLevel": NoEffect, "logToStderr": NoEffect, "chrootDir": NoEffect, "cniConfigDir": NoEffect,
		"multusAutoconfigDir": Differs, "multusConfigFile": NoEffect, "socketDir": NoEffect, "namespaceIsolation": Kept,
		"globalNamespaces": Kept, "metricsPort": Differs, "tpyo": Unknown,
	}
	if diff := cmp.Diff(wantVerdicts, verdicts(p)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	i := slices.IndexFunc(p.Keys, func(k Key) bool { return k.Name == "logLevel" })
	if string(p.Keys[i].Value) != `"debug"` {
		t.Errorf("the daemon's key does not go before the file's: %s", p.Keys[i].Value)
	}
	wantOperations := []Operation{
		{"write", n.path("00-weir.conflist"), ""}, {"rename", n.path("00-multus.conf"), n.path("00-multus.conf.before-weir")},
	}
	if diff := cmp.Diff(wantOperations, p.Operations); diff != "" {
		t.Error(diff)
	}
	text := p.String()
	for _, part := range []string{"the thick deployment", "kubectl -n kube-system delete daemonset kube-multus-ds", "docs/compatibility.md",
		"1. write", "2. rename", "namespaceIsolation", `"clusterNetwork"`, "cni_default_network"} {
		if !strings.Contains(text, part) {
			t.Errorf("the text lacks %q:\n%s", part, text)
		}
	}
}

func TestPathsOfTheDaemonsPodBecomeTheNodes(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel, "00-multus.conf": `{"name":"m","type":"multus-shim",
		"clusterNetwork":"/in/the/pod/10-flannel.conflist","confDir":"/hostroot/etc/cni/multus/net.d",
		"readinessindicatorfile":"/host/run/not/there/yet","defaultNetworks":["lan","/host/etc/none.conf","/hostile/x"]}`,
		"multus.d/daemon-config.json": `{"cniConfigDir":"/in/the/pod","chrootDir":"/hostroot"}`})
	_, plugin := entry(t, n.plan())
	want := map[string]any{
		"type": "weir", "clusterNetwork": n.path("10-flannel.conflist"), "confDir": "/etc/cni/multus/net.d",
		"readinessindicatorfile": "/run/not/there/yet", "defaultNetworks": []any{"lan", "/etc/none.conf", "/hostile/x"},
		"capabilities": map[string]any{"portMappings": true},
	}
	if diff := cmp.Diff(want, plugin); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestThickWhoseDaemonsConfigurationIsElsewhere(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel})
	n.must(os.Remove(n.path("multus.d/daemon-config.json")))
	if p, err := Inspect(t.Context(), n.Options); err != nil || !strings.Contains(strings.Join(p.Problems, " "), "get configmap multus-daemon-config") {
		t.Errorf("%v %q", err, p.Problems)
	}
	n.DaemonConfig = filepath.Join(t.TempDir(), "daemon.json")
	if p, err := Inspect(t.Context(), n.Options); err != nil || len(p.Problems) != 1 {
		t.Errorf("a file that is given and not there: %v %q", err, p.Problems)
	}
	n.must(os.WriteFile(n.DaemonConfig, []byte(daemon), 0o600))
	if _, plugin := entry(t, n.plan()); plugin["namespaceIsolation"] != true {
		t.Errorf("%v", plugin)
	}
}

func TestThinAuto(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": thinAuto, "10-flannel.conflist": flannel, "multus.d/multus.kubeconfig": "token"})
	p := n.plan()
	list, plugin := entry(t, p)
	if list.Name != "cbr0" || list.CNIVersion != "1.0.0" || p.Deployment != "thin" {
		t.Errorf("%s of %s", p.Entry, p.Deployment)
	}
	var delegate any
	n.must(json.Unmarshal([]byte(flannel), &delegate))
	want := map[string]any{"type": "weir", "capabilities": map[string]any{"portMappings": true}, "delegates": []any{delegate}}
	if diff := cmp.Diff(want, plugin); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if v := verdicts(p); v["kubeconfig"] != NoEffect || v["cniConf"] != NoEffect || v["delegates"] != Kept {
		t.Errorf("%v", v)
	}
	if !strings.Contains(strings.Join(p.Notes, " "), "multus.kubeconfig holds a token") {
		t.Errorf("%q", p.Notes)
	}
}

func TestAnEntryThatAnAgentKeepsStays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		multus, settings string
		want             map[string]any
	}{
		"a file":                   {thick, "", map[string]any{}},
		"the same network in full": {thinAuto, "", map[string]any{}},
		"weir's defaults, in words": {`{"name":"m","type":"multus","clusterNetwork":"CONFDIR/10-flannel.conflist","namespaceIsolation":false,
			"globalNamespaces":"default","binDir":"/opt/cni/bin","systemNamespaces":["kube-system"],"confDir":"","readinessindicatorfile":""}`,
			"", map[string]any{}},
		"settings of both": {`{"name":"m","type":"multus","clusterNetwork":"CONFDIR/10-flannel.conflist","namespaceIsolation":true}`,
			`"namespaceIsolation":true,"multusNamespace":"networks",`, map[string]any{"namespaceIsolation": true, "multusNamespace": "networks"}},
		"Multus that took it":         {strings.Replace(thick, "10-flannel", "00-weir", 1), "", map[string]any{}},
		"Multus that took it in full": {`{"name":"m","type":"multus","delegates":[` + agents("") + `]}`, "", map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, map[string]string{"00-multus.conf": c.multus, "10-flannel.conflist": flannel, "00-weir.conflist": agents(c.settings)})
			p := n.plan()
			if diff := cmp.Diff(c.want, p.Settings); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
			if want := []Operation{{"rename", n.path("00-multus.conf"), n.path("00-multus.conf.before-weir")}}; !slices.Equal(p.Operations, want) {
				t.Errorf("%v, want %v", p.Operations, want)
			}
			before := n.snapshot()[n.path("00-weir.conflist")]
			n.must(p.Apply())
			if got := n.active(); got != "weir" || n.snapshot()[n.path("00-weir.conflist")] != before {
				t.Errorf("the runtime uses %s; the entry is %s", got, n.snapshot()[n.path("00-weir.conflist")])
			}
			n.write("00-weir.conflist", agents(`"confDir":"/changed/by/the/agent",`)) // and no concern of the way back
			want := []Operation{{"rename", n.path("00-multus.conf.before-weir"), n.path("00-multus.conf")}}
			if got := n.revert(); !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

func TestTheDaemonsConfigurationAsItIsGiven(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel})
	n.DaemonConfig, n.Daemon = "given", []byte(daemon)
	p := n.plan()
	if want := map[string]any{"namespaceIsolation": true, "globalNamespaces": "default,shared"}; !cmp.Equal(p.Settings, want) || p.Files[1] != "given" {
		t.Errorf("%v of %q", p.Settings, p.Files)
	}
	n.Daemon = []byte{}
	if p, err := Inspect(t.Context(), n.Options); err != nil || !strings.Contains(strings.Join(p.Problems, ""), "given: unexpected end") {
		t.Errorf("nothing given: %v %q", err, p.Problems)
	}
}

func TestThinWithDelegatesInline(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": thinInline})
	n.NetworkName = "node-cni"
	p := n.plan()
	list, plugin := entry(t, p)
	if list.Name != "node-cni" || list.CNIVersion != "0.4.0" || plugin["binDir"] != "/opt/other/bin" {
		t.Errorf("%s", p.Entry)
	}
	if delegates, _ := plugin["delegates"].([]any); len(delegates) != 2 {
		t.Errorf("%v", delegates)
	}
	if diff := cmp.Diff(map[string]any{"ips": true}, plugin["capabilities"]); diff != "" {
		t.Error(diff)
	}
}

func TestTheDefaultNetworkAsMultusNamesIt(t *testing.T) {
	t.Parallel()
	of := func(clusterNetwork string) string {
		return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"m","type":"multus","clusterNetwork":%q,"capabilities":{"ips":true,"mac":false},
			"defaultNetworks":["lan"],"delegates":[{"type":"unread"}]}`, clusterNetwork)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "10-a.conflist"), []byte(flannel), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, clusterNetwork, want, network, version string }{
		{"a NetworkAttachmentDefinition", "ovn", "ovn", "m", "1.1.0"},
		{"a file", "CONFDIR/10-flannel.conflist", "CONFDIR/10-flannel.conflist", "cbr0", "1.0.0"},
		{"another directory", other, other, "cbr0", "1.0.0"},
		{"the runtime's own directory", "CONFDIR/", "CONFDIR/10-flannel.conflist", "cbr0", "1.0.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, map[string]string{"00-multus.conf": of(c.clusterNetwork), "10-flannel.conflist": flannel})
			p := n.plan()
			list, plugin := entry(t, p)
			if want := strings.ReplaceAll(c.want, "CONFDIR", n.ConfDir); plugin["clusterNetwork"] != want {
				t.Errorf("clusterNetwork %v, want %s", plugin["clusterNetwork"], want)
			}
			if list.Name != c.network || list.CNIVersion != c.version {
				t.Errorf("%s %s, want %s %s", list.Name, list.CNIVersion, c.network, c.version)
			}
			if _, has := plugin["delegates"]; has || plugin["defaultNetworks"] == nil || verdicts(p)["delegates"] != NoEffect {
				t.Errorf("%s", p.Entry)
			}
		})
	}
}

func TestWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		files map[string]string
		do    func(n *node)
		want  string
	}{
		{name: "nothing there", want: "no configuration of Multus"},
		{name: "no Multus", files: map[string]string{"10-flannel.conflist": flannel}, want: "no configuration of Multus"},
		{name: "an empty file", files: map[string]string{"00-multus.conf": ""}, want: "may be Multus's"},
		{name: "broken JSON", files: map[string]string{"00-multus.conf": thick[:50]}, want: "may be Multus's"},
		{name: "null", files: map[string]string{"00-multus.conf": "null"}, want: "no configuration of Multus"},
		{name: "broken JSON of the daemon", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel,
			"multus.d/daemon-config.json": "{"}, want: "daemon-config.json: unexpected end"},
		{name: "a default network that is gone", files: map[string]string{"00-multus.conf": thick}, want: "clusterNetwork: "},
		{name: "a default network that is broken", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": "{}"},
			want: "no name"},
		{name: "Multus as default network", files: map[string]string{"00-multus.conf": strings.Replace(thick, "10-flannel.conflist", "00-multus.conf", 1)},
			want: "weir or Multus is among its plugins"},
		{name: "Multus inline", files: map[string]string{"00-multus.conf": `{"name":"m","type":"multus","delegates":[` + thinInline + `]}`},
			want: "delegates[0]: weir or Multus"},
		{name: "no default network", files: map[string]string{"00-multus.conf": `{"name":"m","type":"multus"}`}, want: "neither clusterNetwork nor delegates"},
		{name: "a delegate that is none", files: map[string]string{"00-multus.conf": `{"name":"m","type":"multus","delegates":[{"name":"a"}]}`},
			want: "delegates[0]: "},
		{name: "a key of the wrong kind", files: map[string]string{"00-multus.conf": `{"name":"m","type":"multus","clusterNetwork":"a","namespaceIsolation":"yes"}`},
			want: "not of the right kind"},
		{name: "a plugin beside Multus", files: map[string]string{"00-multus.conflist": `{"name":"m","plugins":[{"type":"multus","clusterNetwork":"a"},{"type":"tuning"}]}`},
			want: "other plugins beside Multus (tuning)"},
		{name: "a file between", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel, "00-other.conf": `{"name":"o","type":"bridge"}`},
			want: "00-other.conf before weir's entry"},
		{name: "no plugin", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel},
			do: func(n *node) { n.must(os.Remove(filepath.Join(n.BinDir, "weir"))) }, want: "install weir on the node first"},
		{name: "a plugin that cannot be executed", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel},
			do: func(n *node) { n.must(os.Chmod(filepath.Join(n.BinDir, "weir"), 0o644)) }, want: "install weir on the node first"},
		{name: "somebody else's file under the entry's name", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel,
			"00-weir.conflist": flannel}, want: "00-weir.conflist is there and is no entry of weir"},
		{name: "the name to rename to is taken", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel,
			"00-multus.conf.before-weir": "old"}, want: "before-weir is there already"},
		{name: "an agent without Multus's settings", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel,
			"00-weir.conflist": agents(""), "multus.d/daemon-config.json": daemon}, want: "has not got Multus's globalNamespaces, namespaceIsolation"},
		{name: "an agent with another setting", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel,
			"00-weir.conflist": agents(`"namespaceIsolation":true,"globalNamespaces":"default",`), "multus.d/daemon-config.json": daemon},
			want: "has not got Multus's globalNamespaces:"},
		{name: "an agent with another default network", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel,
			"00-weir.conflist": strings.Replace(agents(""), "10-flannel", "05-other", 1)}, want: "05-other.conflist, and Multus has "},
		{name: "an agent, and networks of every pod in full", files: map[string]string{"00-multus.conf": thinInline,
			"10-flannel.conflist": flannel, "00-weir.conflist": agents(`"binDir":"/opt/other/bin",`)}, want: "and Multus has first and second, in full"},
		{name: "an agent, and another network in full", files: map[string]string{"00-multus.conf": strings.ReplaceAll(thinAuto, "cbr0", "x"),
			"10-flannel.conflist": flannel, "00-weir.conflist": agents("")}, want: "and Multus has x, in full"},
		{name: "a key twice", files: map[string]string{"00-multus.conf": `{"name":"m","type":"multus","clusterNetwork":"a","clusternetwork":"b"}`},
			want: "clusterNetwork is there twice"},
		{name: "an agent, and another name", files: map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel,
			"00-weir.conflist": agents("")}, do: func(n *node) { n.NetworkName = "m" }, want: "is called cbr0"},
		{name: "a name that libcni refuses", files: map[string]string{"00-multus.conf": `{"name":"","type":"multus","clusterNetwork":"a"}`},
			want: "the name of weir's entry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, c.files)
			if c.do != nil {
				c.do(n)
			}
			before := n.snapshot()
			p, err := Inspect(t.Context(), n.Options)
			n.must(err)
			if !strings.Contains(strings.Join(p.Problems, "\n"), c.want) {
				t.Errorf("%q, want %q", p.Problems, c.want)
			}
			if err := p.Apply(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if !strings.Contains(p.String(), "In the way:") {
				t.Errorf("%s", p)
			}
			if diff := cmp.Diff(before, n.snapshot()); diff != "" {
				t.Errorf("something was changed:\n%s", diff)
			}
		})
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a/b.conflist", "a.conf", ".a.conflist"} {
		if _, err := Inspect(t.Context(), Options{Name: name}); err == nil {
			t.Errorf("%s is taken", name)
		}
		if _, err := Revert(Options{Name: name}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := Inspect(t.Context(), Options{ConfDir: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
	n := newNode(t, map[string]string{"00-multus.conf": thinInline})
	n.Settings = map[string]any{"type": "x"}
	if p, err := Inspect(t.Context(), n.Options); err != nil || !strings.Contains(strings.Join(p.Problems, ""), "type is no setting") {
		t.Errorf("%v", err)
	}
}

func TestPlanAsJSON(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"thick": {"00-multus.conf": thick, "10-flannel.conflist": flannel}, "nothing": nil,
	} {
		n := newNode(t, files)
		p, err := Inspect(t.Context(), n.Options)
		n.must(err)
		data, err := json.Marshal(p)
		n.must(err)
		var got map[string]any
		n.must(json.Unmarshal(data, &got))
		for _, list := range []string{"files", "keys", "operations", "notes", "problems"} {
			if _, isList := got[list].([]any); !isList {
				t.Errorf("%s: %s is no list:\n%s", name, list, data)
			}
		}
	}
}

func TestApplyAndRevert(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"thick":       {"00-multus.conf": thick, "10-flannel.conflist": flannel, "multus.d/daemon-config.json": daemon},
		"thin auto":   {"00-multus.conf": thinAuto, "10-flannel.conflist": flannel},
		"thin inline": {"70-multus.conf": thinInline},
		"thin in a list": {"00-multus.conflist": `{"cniVersion":"1.0.0","name":"m","plugins":[{"type":"multus","clusterNetwork":"CONFDIR/10-flannel.conflist"}]}`,
			"10-flannel.conflist": flannel},
		"two files":          {"00-multus.conf": thick, "00-multus.conflist": `{"name":"m","plugins":[` + thinInline + `]}`, "10-flannel.conflist": flannel},
		"an agent's entry":   {"00-multus.conf": thick, "00-weir.conflist": agents(""), "10-flannel.conflist": flannel},
		"Multus before weir": {"00-multus.conf": strings.Replace(thick, "10-flannel", "00-weir", 1), "00-weir.conflist": agents(""), "10-flannel.conflist": flannel},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, files)
			before := n.snapshot()
			p := n.plan()
			n.must(p.Apply())
			if got := n.active(); got != "weir" {
				t.Errorf("the runtime uses %s", got)
			}
			for _, path := range p.Files[:1] {
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is there", path)
				}
			}
			again, err := Inspect(t.Context(), n.Options)
			if err != nil || !again.Applied || !slices.Equal(again.Operations, p.Operations) || len(again.Problems) > 0 {
				t.Errorf("what is done does not show: %v, %+v", err, again)
			}
			if again.Apply() == nil {
				t.Error("migrated twice")
			}
			n.revert()
			if diff := cmp.Diff(before, n.snapshot()); diff != "" {
				t.Errorf("not as before:\n%s", diff)
			}
			if _, err := Revert(n.Options); !errors.Is(err, ErrNoJournal) {
				t.Errorf("%v", err)
			}
			n.must(n.plan().Apply()) // and once more
		})
	}
}

// TestACrashBetweenAnyTwoSteps: wherever Apply and then Revert are cut off, the runtime
// finds weir or Multus, and the next Revert brings everything back.
func TestACrashBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	files := map[string]string{"00-multus.conf": thick, "05-multus.conf": thinInline, "10-flannel.conflist": flannel}
	const steps = 3
	for applied := range steps + 1 {
		for reverted := range steps + 1 {
			t.Run(fmt.Sprintf("after %d steps and %d back", applied, reverted), func(t *testing.T) {
				t.Parallel()
				n := newNode(t, files)
				before := n.snapshot()
				p := n.plan()
				if len(p.steps) != steps {
					t.Fatalf("%d steps", len(p.steps))
				}
				n.must(os.MkdirAll(n.StateDir, 0o700))
				n.must(p.begin())
				uses := func(want ...string) {
					t.Helper()
					if got := n.active(); !slices.Contains(want, got) {
						t.Errorf("the runtime uses %s, want %s", got, want)
					}
				}
				uses("multus-shim")
				for i := range applied {
					n.must(p.steps[i].do())
					uses("multus-shim", "weir")
				}
				if applied == steps {
					uses("weir")
				}
				j, err := readJournal(n.StateDir)
				n.must(err)
				for i := range reverted {
					n.must(j.Steps[steps-1-i].undo())
					uses("multus-shim", "weir")
				}
				// A write that was cut off leaves this.
				n.must(os.WriteFile(filepath.Join(n.StateDir, ".weir-new-1"), []byte("half"), 0o600))
				n.must(os.WriteFile(n.path(".weir-new-1"), []byte("half"), 0o600))
				halfway, err := Inspect(t.Context(), n.Options)
				n.must(err)
				if whole := applied == steps && reverted == 0; halfway.Applied != whole || halfway.Interrupted == whole || len(halfway.Problems) > 0 {
					t.Errorf("applied %t, interrupted %t, in the way %q", halfway.Applied, halfway.Interrupted, halfway.Problems)
				}
				if operations := n.revert(); halfway.Interrupted && !slices.Equal(halfway.Operations, operations) {
					t.Errorf("%v was announced, %v was done", halfway.Operations, operations)
				}
				uses("multus-shim")
				if diff := cmp.Diff(before, n.snapshot()); diff != "" {
					t.Errorf("not as before:\n%s", diff)
				}
			})
		}
	}
}

// TestTheRuntimeFindsOneOrTheOtherAtEveryInstant looks on while a node is migrated and
// reverted.
func TestTheRuntimeFindsOneOrTheOtherAtEveryInstant(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": thick, "00-multus2.conf": thinInline, "10-flannel.conflist": flannel})
	done := make(chan struct{})
	seen := make(chan map[string]int)
	go func() {
		types := map[string]int{}
		for {
			select {
			case <-done:
				seen <- types
				return
			default:
				types[firstType(n.ConfDir)]++
			}
		}
	}()
	for range 100 {
		n.must(n.plan().Apply())
		n.revert()
	}
	close(done)
	types := <-seen
	t.Logf("%v", types)
	delete(types, "") // it was renamed between the listing and the reading
	if types["multus-shim"] == 0 || types["weir"] == 0 || len(types) != 2 {
		t.Errorf("the runtime found %v", types)
	}
}

// firstType is the type of the first configuration of a directory; empty where it is
// not there any more.
func firstType(dir string) string {
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil || len(files) == 0 {
		return "none"
	}
	network, err := install.ReadNetwork(slices.Min(files))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case network == nil:
		return err.Error()
	}
	return network.Types[0]
}

func TestWhatSomebodyChangedSinceIsNotOverwritten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(n *node)
		// want is the error; empty where there is nothing to refuse.
		want string
		// left are files that stay beside those of before when it is forced.
		left []string
	}{
		{"the entry edited", func(n *node) { n.write("00-weir.conflist", flannel) }, "00-weir.conflist was changed", nil},
		{"the entry's mode", func(n *node) { n.must(os.Chmod(n.path("00-weir.conflist"), 0o644)) }, "00-weir.conflist was changed", nil},
		{"the entry removed", func(n *node) { n.must(os.Remove(n.path("00-weir.conflist"))) }, "", nil},
		{"Multus's file edited", func(n *node) { n.write("00-multus.conf.before-weir", thinAuto) }, "before-weir was changed",
			[]string{"00-multus.conf.before-weir"}},
		{"Multus's file gone", func(n *node) { n.must(os.Remove(n.path("00-multus.conf.before-weir"))) }, "are gone", nil},
		{"Multus's file written anew", func(n *node) { n.write("00-multus.conf", thinAuto) }, "another " + "CONFDIR/00-multus.conf", nil},
		{"Multus's file written anew as it was", func(n *node) { n.write("00-multus.conf", thick) }, "", nil},
		{"Multus's file renamed back", func(n *node) { n.must(os.Rename(n.path("00-multus.conf.before-weir"), n.path("00-multus.conf"))) }, "", nil},
		{"Multus's file a directory", func(n *node) { n.must(os.Mkdir(n.path("00-multus.conf"), 0o755)) }, "not a regular file", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel})
			before := n.snapshot()
			n.must(n.plan().Apply())
			c.do(n)
			changed := n.snapshot()
			_, err := Revert(n.Options)
			if want := strings.ReplaceAll(c.want, "CONFDIR", n.ConfDir); want != "" {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
				if diff := cmp.Diff(changed, n.snapshot()); diff != "" {
					t.Errorf("something was changed:\n%s", diff)
				}
				_ = os.Remove(n.path("00-multus.conf")) // a directory is beyond force
				if strings.Contains(c.want, "CONFDIR") {
					n.write("00-multus.conf", thinAuto)
				}
				n.Force = true
				_, err = Revert(n.Options)
			}
			n.must(err)
			got := n.snapshot()
			for _, name := range c.left {
				if _, there := got[n.path(name)]; !there {
					t.Errorf("%s was thrown away", name)
				}
				delete(got, n.path(name))
			}
			if diff := cmp.Diff(before, got); diff != "" {
				t.Errorf("not as before:\n%s", diff)
			}
		})
	}
}

func TestAPlanThatIsNoLongerTrueIsNotApplied(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(n *node){
		"Multus's file changed": func(n *node) { n.write("00-multus.conf", thinAuto) },
		"Multus's file gone":    func(n *node) { n.must(os.Remove(n.path("00-multus.conf"))) },
		"an entry appeared":     func(n *node) { n.write("00-weir.conflist", "{}") },
		"the entry changed":     func(n *node) { n.write("00-weir.conflist", agents(`"namespaceIsolation":true,`)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel})
			p := n.plan()
			do(n)
			before := n.snapshot()
			if err := p.Apply(); err == nil || !strings.Contains(err.Error(), "not as it was") {
				t.Errorf("%v", err)
			}
			if diff := cmp.Diff(before, n.snapshot()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAStepThatFailsIsUndoneWithTheOthers(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel})
	before := n.snapshot()
	p := n.plan()
	p.steps[1].To = filepath.Join(n.ConfDir, "none", "x")
	if err := p.Apply(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if diff := cmp.Diff(before, n.snapshot()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatHasBecomeOfAMigratedNode(t *testing.T) {
	t.Parallel()
	flannelAndMultus := map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel}
	withAgent := map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel, "00-weir.conflist": agents("")}
	for _, c := range []struct {
		name  string
		files map[string]string
		do    func(n *node)
		// want is what is in the way; empty for a migration that was cut off.
		want string
	}{
		{"Multus wrote its file as it was", flannelAndMultus, func(n *node) { n.write("00-multus.conf", thick) }, "00-multus.conf is there again"},
		{"Multus wrote another", flannelAndMultus, func(n *node) { n.write("00-multus.conf", thinAuto) }, "--force"},
		{"Multus wrote one of another name", flannelAndMultus, func(n *node) { n.write("00-a.conf", thinAuto) }, "reads CONFDIR/00-a.conf first"},
		{"somebody else's file goes first", flannelAndMultus, func(n *node) { n.write("00-a.conf", `{"name":"a","type":"bridge"}`) }, "reads CONFDIR/00-a.conf first"},
		{"a broken file", flannelAndMultus, func(n *node) { n.write("00-a.conf", "{") }, "CONFDIR/00-a.conf: unexpected end"},
		{"the entry is gone", flannelAndMultus, func(n *node) { n.must(os.Remove(n.path("00-weir.conflist"))) }, ""},
		{"the agent's entry is gone", withAgent, func(n *node) { n.must(os.Remove(n.path("00-weir.conflist"))) }, "reads CONFDIR/10-flannel.conflist first"},
		{"everything is gone", withAgent, func(n *node) {
			n.must(os.Remove(n.path("00-weir.conflist")))
			n.must(os.Remove(n.path("10-flannel.conflist")))
		}, "no other configuration"},
		{"Multus's file is back by hand", flannelAndMultus,
			func(n *node) { n.must(os.Rename(n.path("00-multus.conf.before-weir"), n.path("00-multus.conf"))) }, ""},
		{"the journal is broken", flannelAndMultus, func(n *node) { n.must(os.WriteFile(journalPath(n.StateDir), nil, 0o600)) }, "migration.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, c.files)
			n.must(n.plan().Apply())
			c.do(n)
			before := n.snapshot()
			p, err := Inspect(t.Context(), n.Options)
			n.must(err)
			if p.Applied || p.Interrupted != (c.want == "") {
				t.Errorf("applied %t, interrupted %t", p.Applied, p.Interrupted)
			}
			if want := strings.ReplaceAll(c.want, "CONFDIR", n.ConfDir); !strings.Contains(strings.Join(p.Problems, "\n"), want) {
				t.Errorf("%q, want %q", p.Problems, want)
			}
			if p.Apply() == nil {
				t.Error("it is applied")
			}
			if diff := cmp.Diff(before, n.snapshot()); diff != "" {
				t.Errorf("something was changed:\n%s", diff)
			}
		})
	}
}

func TestTheAgentIsAsked(t *testing.T) {
	t.Parallel()
	const own = `"socket":"OWN",`
	for _, c := range []struct {
		name, entry string
		answer      http.HandlerFunc
		want        string
	}{
		{"it could", "", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }, ""},
		{"it could not", "", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"error":{"code":50,"msg":"no such network","details":"lan"}}`)
		}, "could attach no pod at the moment: no such network; lan"},
		{"it is another program", "", http.NotFound, "answers 404 Not Found"},
		{"there is none", "", nil, "no agent answers on SOCKET"},
		{"it has another socket", own, nil, "no agent answers on OWN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel})
			if c.entry != "" {
				n.write("00-weir.conflist", strings.Replace(agents(""), `"socket":"/run/weir/weir.sock",`, c.entry, 1))
			}
			var asked api.CNIRequest
			n.Socket = listenOn(t, c.answer, &asked)
			p, err := Inspect(t.Context(), n.Options)
			n.must(err)
			if want := strings.ReplaceAll(c.want, "SOCKET", n.Socket); !strings.Contains(strings.Join(p.Problems, "\n"), want) || (want == "") != (len(p.Problems) == 0) {
				t.Errorf("%q, want %q", p.Problems, want)
			}
			if c.answer == nil {
				return
			}
			var config map[string]any
			n.must(json.Unmarshal(asked.Config, &config))
			want := map[string]any{"cniVersion": "1.0.0", "name": "cbr0", "type": "weir", "clusterNetwork": n.path("10-flannel.conflist")}
			if diff := cmp.Diff(want, config); asked.Command != "STATUS" || asked.Path != n.BinDir || diff != "" {
				t.Errorf("asked %+v (-want +got):\n%s", asked, diff)
			}
		})
	}
}

// listenOn serves what is posted on a socket, and keeps it; nothing without an answer.
func listenOn(t *testing.T, answer http.HandlerFunc, asked *api.CNIRequest) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	if answer == nil {
		return socket
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(asked); err != nil {
			t.Error(err)
		}
		answer(w, r)
	})}}
	server.Start()
	t.Cleanup(server.Close)
	return socket
}

func TestADefaultNetworkThatIsNoLongerAsMultusHasIt(t *testing.T) {
	t.Parallel()
	for changed, want := range map[string]bool{flannel: false, strings.Replace(flannel, "true", "false", 1): true} {
		n := newNode(t, map[string]string{"00-multus.conf": thinAuto, "10-flannel.conflist": changed, "00-weir.conflist": agents("")})
		if notes := strings.Join(n.plan().Notes, "\n"); strings.Contains(notes, "with weir the file counts") != want {
			t.Errorf("want it %t: %s", want, notes)
		}
	}
}

func TestOneMigrationAtATime(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel})
	p := n.plan()
	held, err := lock(n.StateDir)
	n.must(err)
	if err := p.Apply(); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("%v", err)
	}
	n.must(held.Close())
	n.must(p.Apply())
}

func TestAJournalThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{"broken": "{", "another version": `{"version":2,"steps":[]}`} {
		n := newNode(t, map[string]string{"00-multus.conf": thick, "10-flannel.conflist": flannel})
		n.must(os.MkdirAll(n.StateDir, 0o700))
		n.must(os.WriteFile(journalPath(n.StateDir), []byte(content), 0o600))
		if _, err := Revert(n.Options); err == nil || errors.Is(err, ErrNoJournal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzInspect: whatever Multus's file holds, the plan is refused, or its entry is one
// that a runtime takes and Revert brings everything back.
func FuzzInspect(f *testing.F) {
	for _, seed := range []string{thick, thinAuto, thinInline, "", "null", `{"type":"multus","name":"a","clusterNetwork":"x"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
		n.write("00-multus.conf", string(data))
		before := n.snapshot()
		p, err := Inspect(t.Context(), n.Options)
		n.must(err)
		_ = p.String()
		if len(p.Problems) > 0 {
			return
		}
		n.must(p.Apply())
		if got := n.active(); got != "weir" {
			t.Errorf("the runtime uses %s", got)
		}
		n.revert()
		if diff := cmp.Diff(before, n.snapshot()); diff != "" {
			t.Errorf("not as before:\n%s", diff)
		}
	})
}
