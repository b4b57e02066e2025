// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/state"
)

// site is the directories of an agent.
type site struct{ state, bpf, socket string }

func newSite(t *testing.T, items ...api.AttachmentStatus) *site {
	t.Helper()
	return &site{t.TempDir(), t.TempDir(), agent(t, items...)}
}

// run runs a command with the site's directories, which it has named as they usually are.
func (s *site) run(args ...string) (code int, stdout, stderr string) {
	args = append(args, "--socket", s.socket, "--state-dir", s.state, "--bpf-dir", s.bpf)
	code, stdout, stderr = run(args...)
	usual := strings.NewReplacer(s.state, api.DefaultStateDir, s.bpf, api.DefaultBPFDir, s.socket, api.DefaultSocket)
	return code, usual.Replace(stdout), usual.Replace(stderr)
}

func (s *site) save(t *testing.T, records ...*state.Record) {
	t.Helper()
	dir, err := state.Open(filepath.Join(s.state, state.RecordsDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := dir.Save(r); err != nil {
			t.Fatal(err)
		}
	}
}

// bare is an attachment without a guard, whose record is whole.
func bare() (api.AttachmentStatus, *state.Record) {
	a := aged(other(), 49*time.Hour)
	a.Created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a.Dropped = []api.Drop{}
	return a, recordFor(a, state.Ready)
}

func recordFor(a api.AttachmentStatus, phase state.Phase) *state.Record {
	return &state.Record{ContainerID: a.ContainerID, Pod: a.Pod, Phase: phase, Created: a.Created, Delegates: []state.Delegate{{
		Interface: a.Interface, Network: a.Network, Attachment: &a.Attachment,
		Config: json.RawMessage(`{"type":"macvlan","weir":{"allow":["vlan"],"stormLimit":{"broadcast":200}}}`),
	}}}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	without, record := bare()
	// Its pins are missing: those that are there need a kernel, see tests/node.
	guarded := dated(web())
	guarded.Netns = "/run/netns/web"
	guarded.Rules = []api.Rule{{Rule: attachment.Rule{Direction: "ingress", Rule: "web", Action: "allow"}, Packets: 7, Bytes: 420}}
	onNode := guarded
	onNode.Rules = nil
	onNode.Interface, onNode.HostInterface, onNode.Hook = "net2", "veth1", "clsact"
	tests := []struct {
		golden, output, name string
		code                 int
	}{
		{"describe-one.table", "table", "beef", ExitOK},
		{"describe-one.table", "wide", "beef", ExitOK},
		{"describe-one.json", "json", "beef", ExitOK},
		{"describe-one.yaml", "yaml", "beef", ExitOK},
		{"describe-one.name", "name", "beef", ExitOK},
		{"describe-many.table", "table", "web", ExitPartial},
		{"describe-many.json", "json", "shop/web", ExitPartial},
		{"describe-none.table", "table", "nobody", ExitFailed},
		{"describe-none.json", "json", "nobody", ExitFailed},
		{"describe-none.yaml", "yaml", "nobody", ExitFailed},
		{"describe-none.table", "name", "nobody", ExitFailed},
	}
	for _, test := range tests {
		t.Run(test.golden+" "+test.output, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, without, guarded, onNode)
			both := recordFor(guarded, state.Ready)
			both.Delegates = append(both.Delegates, recordFor(onNode, state.Ready).Delegates...)
			both.Delegates[1].RuntimeConfig = map[string]any{"bandwidth": map[string]any{"egressRate": 1000000}}
			both.Delegates[1].Options = json.RawMessage(`{}`)
			unfinished := *record // which saving writes to
			s.save(t, &unfinished, both)
			code, out, stderr := s.run("describe", test.name, "-o", test.output)
			if code != test.code || (stderr == "") != (code == ExitOK) {
				t.Errorf("exit code %d, stderr %q", code, stderr)
			}
			out = strings.ReplaceAll(out, "("+age(guarded.Created)+" ago)", "(AGE ago)")
			golden(t, test.golden, out)
		})
	}
}

// What no attachment is yet, or any more, is described by its record.
func TestDescribeUnfinished(t *testing.T) {
	t.Parallel()
	a := dated(web())
	for _, phase := range []state.Phase{state.Adding, state.Deleting} {
		s := newSite(t)
		s.save(t, recordFor(a, phase))
		code, out, stderr := s.run("describe", "web")
		if code != ExitPartial || !strings.Contains(out, "the record of its sandbox is "+string(phase)) || !strings.Contains(stderr, string(phase)) {
			t.Errorf("exit code %d, %s%s", code, out, stderr)
		}
	}
}

func TestDescribeDamage(t *testing.T) {
	t.Parallel()
	damage := map[string]struct {
		do   func(t *testing.T, s *site)
		says string
	}{
		"no record":        {func(*testing.T, *site) {}, "no record in /var/lib/weir/sandboxes speaks of it"},
		"a damaged record": {damageRecord, "the record is damaged"},
		"a file as pin": {func(t *testing.T, s *site) {
			s.save(t, recordFor(web(), state.Ready))
			s.writeFile(t, filepath.Join(s.bpf, "c0ffee-net1", "counters"), "no pin")
		}, "counters"},
		"no configuration": {func(t *testing.T, s *site) {
			r := recordFor(web(), state.Ready)
			r.Delegates[0].Config = json.RawMessage(`[]`)
			s.save(t, r)
		}, "the configuration in its record"},
	}
	for name, test := range damage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, web())
			test.do(t, s)
			if code, out, stderr := s.run("describe", "web"); code != ExitPartial || !strings.Contains(out+stderr, test.says) {
				t.Errorf("exit code %d, %s%s", code, out, stderr)
			}
		})
	}
}

func damageRecord(t *testing.T, s *site) {
	s.writeFile(t, filepath.Join(s.state, state.RecordsDir, "c0ffee.json"), "{}")
}

func (s *site) writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDescribeBadInput(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args []string
		code int
		says string
	}{
		{nil, ExitUsage, "at least 1"},
		{[]string{"web", "-o", "xml"}, ExitUsage, "table, wide, json, yaml, name"},
		{[]string{"web", "-n", "shop", "-A"}, ExitUsage, "exclude each other"},
		{[]string{"wbe"}, ExitFailed, `no pod "wbe" on this node: did you mean shop/web?`},
		{[]string{"web", "-n", "default"}, ExitFailed, `no pod "web" on this node`},
	}
	for _, test := range tests {
		if code, _, stderr := newSite(t, web()).run(append([]string{"describe"}, test.args...)...); code != test.code || !strings.Contains(stderr, test.says) {
			t.Errorf("%v: exit code %d, stderr %q", test.args, code, stderr)
		}
	}
	var stderr bytes.Buffer
	s := newSite(t, web())
	code := Run([]string{"weirctl", "describe", "web", "--socket", s.socket, "--state-dir", s.state}, "test", brokenPipe{}, &stderr)
	if code == ExitOK || !strings.Contains(stderr.String(), "broken pipe") {
		t.Errorf("exit code %d, stderr %q", code, &stderr)
	}
}
