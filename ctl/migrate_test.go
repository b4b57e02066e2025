// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/weir-cni/weir/migrate"
)

const (
	thinMultus = `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus","kubeconfig":"/k","clusterNetwork":"%s/10-flannel.conflist",
"namespaceIsolation":true,"logLevel":"verbose","retryDeleteOnError":true}`
	flannel = `{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel"},{"type":"portmap","capabilities":{"portMappings":true}}]}`
)

// multusNode is a node that runs the thin Multus before flannel, and has weir's plugin
// and an agent.
type multusNode struct{ conf, bin, state, socket string }

func newMultusNode(t *testing.T) *multusNode {
	t.Helper()
	n := &multusNode{t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "state"), agentOn(t)}
	files := map[string]string{
		filepath.Join(n.conf, "00-multus.conf"):      strings.ReplaceAll(thinMultus, "%s", n.conf),
		filepath.Join(n.conf, "10-flannel.conflist"): flannel,
		filepath.Join(n.bin, "weir"):                 "#!/bin/sh\n",
	}
	for path, content := range files {
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// agentOn is the socket of an agent that could attach pods.
func agentOn(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }),
	}}
	server.Start()
	t.Cleanup(server.Close)
	return socket
}

// migrate runs weirctl migrate on the node.
func (n *multusNode) migrate(args ...string) (code int, stdout, stderr string) {
	return n.migrateWith("", args...)
}

// migrateWith runs it with a standard input. The node's directories are shown as a
// node has them.
func (n *multusNode) migrateWith(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	cmd := New("weirctl", "v1")
	cmd.SetArgs(append(n.flags(), args...))
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	err := cmd.Execute()
	if err != nil {
		errs.WriteString(err.Error())
	}
	usual := strings.NewReplacer(n.conf, "/etc/cni/net.d", n.bin, "/opt/cni/bin", n.state, "/var/lib/weir", n.socket, "/run/weir/weir.sock")
	return exitCode(err), usual.Replace(out.String()), usual.Replace(errs.String())
}

func (n *multusNode) flags() []string {
	return []string{"migrate", "--cni-conf-dir", n.conf, "--cni-bin-dir", n.bin, "--state-dir", n.state, "--socket", n.socket}
}

// files are the names in the directory of configurations, with the first line of each.
func (n *multusNode) files(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(n.conf)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(n.conf, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[entry.Name()] = string(data)
	}
	return all
}

func TestMigrateShowsAndChangesNothing(t *testing.T) {
	t.Parallel()
	n := newMultusNode(t)
	before := n.files(t)
	code, out, errs := n.migrate()
	if code != ExitOK || errs != "" {
		t.Errorf("exit %d, %s", code, errs)
	}
	for _, want := range []string{
		"Multus, the thin deployment", "00-multus.conf", `"type": "weir"`, `"portMappings": true`, "10-flannel.conflist",
		"namespaceIsolation", "logLevel", "no effect", "ConfigMap weir-settings", "  namespaceIsolation: true\n", "What --apply does:",
		"00-multus.conf.before-weir", "kubectl drain", "Nothing was changed.",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan does not say %q:\n%s", want, out)
		}
	}
	if after := n.files(t); len(after) != len(before) {
		t.Errorf("there were %v, and are %v", before, after)
	}
}

func TestMigrateOutputs(t *testing.T) {
	t.Parallel()
	n := newMultusNode(t)
	var fromJSON, fromYAML map[string]any
	_, out, _ := n.migrate("-o", "json")
	if err := json.Unmarshal([]byte(out), &fromJSON); err != nil {
		t.Fatal(err)
	}
	_, out, _ = n.migrate("-o", "yaml")
	if err := yaml.Unmarshal([]byte(out), &fromYAML); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"deployment", "files", "keys", "entry", "settings", "operations", "notes", "problems"} {
		if fromJSON[key] == nil || fromYAML[key] == nil {
			t.Errorf("%s is missing", key)
		}
	}
}

func TestMigrateAndBack(t *testing.T) {
	t.Parallel()
	n := newMultusNode(t)
	before := n.files(t)
	if code, out, errs := n.migrate("--apply"); code != ExitOK || !strings.Contains(out, "Done:") {
		t.Fatalf("exit %d, %s\n%s", code, errs, out)
	}
	between := n.files(t)
	if between["00-multus.conf"] != "" || !strings.Contains(between["00-weir.conflist"], `"type": "weir"`) {
		t.Errorf("after --apply: %v", between)
	}
	if code, out, errs := n.migrate("--apply"); code != ExitOK || !strings.Contains(out, "Done:") {
		t.Errorf("a second --apply: exit %d, %s\n%s", code, errs, out)
	}
	if diff := cmp.Diff(between, n.files(t)); diff != "" {
		t.Errorf("a second --apply changes something:\n%s", diff)
	}
	if code, _, errs := n.migrate("--revert"); code != ExitOK {
		t.Fatalf("exit %d, %s", code, errs)
	}
	after := n.files(t)
	for name, content := range before {
		if after[name] != content {
			t.Errorf("%s was %q and is %q", name, content, after[name])
		}
	}
	if len(after) != len(before) {
		t.Errorf("there were %d files, and are %v", len(before), after)
	}
	if code, _, errs := n.migrate("--revert"); code != ExitFailed || !strings.Contains(errs, "nothing has been migrated") {
		t.Errorf("a second --revert: exit %d, %s", code, errs)
	}
}

// Where weirctl migrate --apply was cut off it is run again.
func TestMigrateAfterItWasCutOff(t *testing.T) {
	t.Parallel()
	n := newMultusNode(t)
	n.migrate("--apply")
	done := n.files(t)
	file := filepath.Join(n.conf, "00-multus.conf")
	if err := os.Rename(file+migrate.Suffix, file); err != nil {
		t.Fatal(err)
	}
	half := n.files(t)
	code, out, errs := n.migrate()
	if code != ExitOK || !strings.Contains(out, "was cut off") || !strings.Contains(out, "What --revert does:\n  1. remove /etc/cni/net.d/00-weir.conflist\n") {
		t.Errorf("exit %d, %s\n%s", code, errs, out)
	}
	if diff := cmp.Diff(half, n.files(t)); diff != "" {
		t.Errorf("something was changed:\n%s", diff)
	}
	if code, out, errs := n.migrate("--apply"); code != ExitOK || !strings.Contains(out, "Done:") {
		t.Errorf("exit %d, %s\n%s", code, errs, out)
	}
	if diff := cmp.Diff(done, n.files(t)); diff != "" {
		t.Errorf("not as after one that went through:\n%s", diff)
	}
}

func TestMigrateRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"both", []string{"--apply", "--revert"}, ExitUsage, "exclude each other"},
		{"force alone", []string{"--force"}, ExitUsage, "--revert"},
		{"an output", []string{"-o", "xml"}, ExitUsage, `"xml"`},
		{"an argument", []string{"node1"}, ExitUsage, "node1"},
		{"a daemon's configuration for the way back", []string{"--revert", "--daemon-config", "-"}, ExitUsage, "--daemon-config"},
		{"a name for the way back", []string{"--revert", "--network-name", "x"}, ExitUsage, "--network-name"},
		{"the wide output", []string{"-o", "wide"}, ExitUsage, "table, json, yaml"},
		{"a flag without its value", []string{"--daemon-config"}, ExitUsage, "--daemon-config"},
		{"a daemon's configuration that is not there", []string{"--daemon-config", "/none.json"}, ExitOK, ""},
		{"a name that cannot be", []string{"--network-name", "a/b"}, ExitFailed, "cannot be migrated"},
		{"a flag", []string{"--nonsense"}, ExitUsage, "nonsense"},
		{"a revert of nothing", []string{"--revert"}, ExitFailed, "nothing has been migrated"},
		{"no agent", []string{"--socket", "/none"}, ExitFailed, "cannot be migrated"},
		{"a directory that is not there", []string{"--cni-conf-dir", "/none"}, ExitFailed, "/none: no such file"},
		{"a directory that is a file", []string{"--cni-conf-dir", "/dev/null"}, ExitFailed, "/dev/null"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if code, _, errs := newMultusNode(t).migrate(test.args...); code != test.code || !strings.Contains(errs, test.says) {
				t.Errorf("exit %d, %s", code, errs)
			}
		})
	}
}

func TestMigrateNothing(t *testing.T) {
	t.Parallel()
	n := newMultusNode(t)
	if err := os.Remove(filepath.Join(n.conf, "00-multus.conf")); err != nil {
		t.Fatal(err)
	}
	code, out, errs := n.migrate("--apply")
	if code != ExitFailed || !strings.Contains(out, "no configuration of Multus") || !strings.Contains(errs, "cannot be migrated") {
		t.Errorf("exit %d, %s\n%s", code, errs, out)
	}
}

const (
	// Paths as the daemon's pod has them: they are as long wherever the test runs.
	thickMultus = `{"capabilities":{"portMappings":true},"clusterNetwork":"/host/etc/cni/net.d/10-flannel.conflist","cniVersion":"0.3.1",
"name":"multus-cni-network","type":"multus-shim","logLevel":"verbose","logToStderr":true}`
	daemonConfig = `{"chrootDir":"/hostroot","cniVersion":"0.3.1","logLevel":"verbose","logToStderr":true,"cniConfigDir":"/host/etc/cni/net.d",
"multusAutoconfigDir":"/host/etc/cni/net.d","multusConfigFile":"auto","socketDir":"/host/run/multus/","namespaceIsolation":true,
"globalNamespaces":"default,shared","auxiliaryCNIChainName":"chain","tpyo":1}`
	thinAuto = `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus","capabilities":{"portMappings":true},
"kubeconfig":"/etc/cni/net.d/multus.d/multus.kubeconfig","delegates":[` + flannel + `]}`
	agentsEntry = `{
  "cniVersion": "0.4.0",
  "name": "cbr0",
  "loadOnlyInlinedPlugins": true,
  "plugins": [
    {
      "capabilities": {
        "portMappings": true
      },
      "clusterNetwork": "%s/10-flannel.conflist",
      "socket": "/run/weir/weir.sock",
      "type": "weir"
    }
  ]
}
`
)

// Each view, to the byte, is in testdata.
func TestMigrateViews(t *testing.T) {
	t.Parallel()
	configured := strings.Replace(agentsEntry, `"socket"`, `"auxiliaryCNIChainName": "chain", "globalNamespaces": "default,shared", "namespaceIsolation": true, "socket"`, 1)
	tests := []struct {
		golden string
		// files replace those of a node; an empty one is not there.
		files map[string]string
		stdin string
		// first is a command that goes before.
		first, args []string
		code        int
	}{
		{golden: "migrate-thick", files: map[string]string{"00-multus.conf": thickMultus}, stdin: daemonConfig,
			args: []string{"--daemon-config", "-"}},
		{golden: "migrate-thick-agent", files: map[string]string{"00-multus.conf": thickMultus, "00-weir.conflist": configured},
			stdin: daemonConfig, args: []string{"--daemon-config=-"}},
		{golden: "migrate-thick-agent-lacks", files: map[string]string{"00-multus.conf": thickMultus, "00-weir.conflist": agentsEntry},
			stdin: daemonConfig, args: []string{"--daemon-config=-"}, code: ExitFailed},
		{golden: "migrate-thick-took-weir", files: map[string]string{
			"00-multus.conf": strings.Replace(thickMultus, "10-flannel", "00-weir", 1), "00-weir.conflist": configured},
			stdin: daemonConfig, args: []string{"--daemon-config=-"}},
		{golden: "migrate-thin", files: map[string]string{"00-multus.conf": thinAuto}},
		{golden: "migrate-thin-agent", files: map[string]string{"00-multus.conf": thinAuto, "00-weir.conflist": agentsEntry}},
		{golden: "migrate-name", files: map[string]string{"00-multus.conf": thinAuto}, args: []string{"--network-name", "multus-cni-network"}},
		{golden: "migrate-none", files: map[string]string{"00-multus.conf": ""}, code: ExitFailed},
		{golden: "migrate-apply", files: map[string]string{"00-multus.conf": thinAuto, "00-weir.conflist": agentsEntry}, args: []string{"--apply"}},
		{golden: "migrate-twice", files: map[string]string{"00-multus.conf": thinAuto, "00-weir.conflist": agentsEntry},
			first: []string{"--apply"}},
		{golden: "migrate-revert", files: map[string]string{"00-multus.conf": thinAuto}, first: []string{"--apply"}, args: []string{"--revert"}},
	}
	for _, test := range tests {
		for _, output := range []string{"table", "json"} {
			t.Run(test.golden+"."+output, func(t *testing.T) {
				t.Parallel()
				n := newMultusNode(t)
				n.put(t, test.files)
				if test.first != nil {
					if code, _, errs := n.migrate(test.first...); code != ExitOK {
						t.Fatal(errs)
					}
				}
				code, out, errs := n.migrateWith(test.stdin, append([]string{"-o", output}, test.args...)...)
				if code != test.code || (code == ExitOK) != (errs == "") {
					t.Errorf("exit code %d, stderr %q", code, errs)
				}
				golden(t, test.golden+"."+output, out)
			})
		}
	}
}

// YAML is the same document as JSON. Its lines are folded by their length, that of the
// test's directories, so that it is no golden file.
func TestMigrateYAML(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"the plan": nil, "applied": {"--apply"}, "reverted": {"--revert"}} {
		var documents [2]any
		for i, output := range []string{"json", "yaml"} {
			n := newMultusNode(t)
			if name == "reverted" {
				n.migrate("--apply")
			}
			_, out, errs := n.migrate(append([]string{"-o", output}, args...)...)
			if err := yaml.Unmarshal([]byte(out), &documents[i]); err != nil || errs != "" {
				t.Fatalf("%v, %s", err, errs)
			}
			if isJSON := strings.HasPrefix(out, "{"); isJSON != (output == "json") {
				t.Errorf("%s as %s:\n%s", name, output, out)
			}
		}
		if diff := cmp.Diff(documents[0], documents[1]); diff != "" || documents[0] == nil {
			t.Errorf("%s (-json +yaml):\n%s", name, diff)
		}
	}
}

// put replaces files of the node; an empty one is removed.
func (n *multusNode) put(t *testing.T, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(n.conf, name)
		here := strings.NewReplacer("%s", n.conf, "/run/weir/weir.sock", n.socket)
		err := os.WriteFile(path, []byte(here.Replace(content)), 0o600)
		if content == "" {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What the plan prints for the agent's settings is a ConfigMap that can be pasted, and
// its settings are such as an agent takes.
func TestMigrateSettingsCanBePasted(t *testing.T) {
	t.Parallel()
	n := newMultusNode(t)
	_, out, _ := n.migrate()
	_, rest, _ := strings.Cut(out, "\nkubectl apply -f - <<'EOF'\n")
	manifest, rest, found := strings.Cut(rest, "\nEOF\n")
	if !found || !strings.HasPrefix(rest, "kubectl -n weir-system rollout restart daemonset/weir\n") {
		t.Fatalf("no commands in\n%s", out)
	}
	var object struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Data     map[string]string
	}
	if err := yaml.Unmarshal([]byte(manifest), &object); err != nil {
		t.Fatal(err)
	}
	if object.Kind != "ConfigMap" || object.Metadata.Name != "weir-settings" || object.Metadata.Namespace != "weir-system" {
		t.Errorf("%+v", object)
	}
	var settings map[string]any
	if err := yaml.UnmarshalStrict([]byte(object.Data["settings.yaml"]), &settings); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"namespaceIsolation": true}, settings); diff != "" {
		t.Error(diff)
	}
}

// A file that somebody has changed since is restored with --force alone.
func TestMigrateRevertForced(t *testing.T) {
	t.Parallel()
	n := newMultusNode(t)
	before := n.files(t)
	if code, _, errs := n.migrate("--apply"); code != ExitOK {
		t.Fatal(errs)
	}
	n.put(t, map[string]string{"00-weir.conflist": agentsEntry})
	if code, _, errs := n.migrate("--revert"); code != ExitFailed || !strings.Contains(errs, "00-weir.conflist was changed") || !strings.Contains(errs, "force") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	if code, _, errs := n.migrate("--revert", "--force"); code != ExitOK {
		t.Errorf("exit code %d, %s", code, errs)
	}
	if diff := cmp.Diff(before, n.files(t)); diff != "" {
		t.Errorf("not as before (-want +got):\n%s", diff)
	}
}

func TestMigrateWriteErrorsAreTold(t *testing.T) {
	t.Parallel()
	for _, output := range planOutputs() {
		n := newMultusNode(t)
		var stderr bytes.Buffer
		if code := Run(append([]string{"weirctl"}, append(n.flags(), "-o", output)...), "v1", brokenPipe{}, &stderr); code != ExitFailed || !strings.Contains(stderr.String(), "broken pipe") {
			t.Errorf("%s: exit code %d, stderr %q", output, code, &stderr)
		}
	}
}
