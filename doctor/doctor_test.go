// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/state"
)

// newExam is an examination of directories of its own, where nothing is.
func newExam(t *testing.T) *exam {
	t.Helper()
	dir := t.TempDir()
	e := &exam{Options: Options{
		Socket: filepath.Join(dir, "weir.sock"), StateDir: filepath.Join(dir, "state"), BPFDir: filepath.Join(dir, "bpf"),
		ConfDir: filepath.Join(dir, "conf"), BinDir: filepath.Join(dir, "bin"), Version: "v1",
	}}
	for _, d := range []string{e.StateDir, e.BPFDir, e.ConfDir, e.BinDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
}

// expect compares what was found with "status check: part of the message".
func (e *exam) expect(t *testing.T, want ...string) {
	t.Helper()
	if len(e.findings) != len(want) {
		t.Errorf("%d findings, want %d: %+v", len(e.findings), len(want), e.findings)
		return
	}
	for i, f := range e.findings {
		head, part, _ := strings.Cut(want[i], ": ")
		if head != string(f.Status)+" "+f.Check || !strings.Contains(f.Message, part) {
			t.Errorf("%+v, want %s", f, want[i])
		}
		if (f.Advice == "") != (f.Status == OK) {
			t.Errorf("advice %q for %s", f.Advice, f.Status)
		}
	}
}

func (e *exam) serve(t *testing.T, handler http.HandlerFunc) {
	t.Helper()
	listener, err := net.Listen("unix", e.Socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func TestAgent(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answer http.HandlerFunc // nil for no agent
		want   string
	}{
		"none":             {nil, "fail agent: no agent answers"},
		"the same version": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version":"v1"}`) }, "ok agent: of version v1"},
		"another version":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version":"v2"}`) }, "warn agent: of version v2, this tool of v1"},
		"an older one":     {http.NotFound, "warn agent: does not tell its version"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newExam(t)
			if test.answer != nil {
				e.serve(t, test.answer)
			}
			e.agent(t.Context())
			e.expect(t, test.want)
			if e.answers != (test.answer != nil) {
				t.Errorf("answers: %v", e.answers)
			}
		})
	}
}

const (
	ownEntry     = `{"cniVersion":"1.0.0","name":"lan","plugins":[{"type":"weir","socket":"/s"}]}`
	multusEntry  = `{"cniVersion":"1.0.0","name":"multus","type":"multus"}`
	defaultEntry = `{"cniVersion":"1.0.0","name":"lan","plugins":[{"type":"bridge"}]}`
)

func TestConfiguration(t *testing.T) {
	t.Parallel()
	quiet := "ok others: no other"
	tests := []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"nothing", nil, []string{"fail configuration: no configuration in", quiet}},
		{"the default network alone", map[string]string{"10-lan.conflist": defaultEntry}, []string{"fail configuration: no configuration in", quiet}},
		{"as it should be", map[string]string{"00-weir.conflist": ownEntry, "10-lan.conflist": defaultEntry},
			[]string{"ok configuration: 00-weir.conflist comes first", quiet}},
		{"one plugin", map[string]string{"00-weir.conf": `{"cniVersion":"1.0.0","name":"lan","type":"weir"}`},
			[]string{"ok configuration: 00-weir.conf comes first", quiet}},
		{"behind another", map[string]string{"10-weir.conflist": ownEntry, "05-lan.conflist": defaultEntry},
			[]string{"fail configuration: 05-lan.conflist comes before", quiet}},
		{"Multus first", map[string]string{"00-multus.conf": multusEntry, "00-weir.conflist": ownEntry},
			[]string{"fail configuration: 00-multus.conf comes before", "warn others: 00-multus.conf is Multus's"}},
		{"Multus behind", map[string]string{"00-weir.conflist": ownEntry, "70-multus.conf": multusEntry},
			[]string{"ok configuration", "warn others: 70-multus.conf is Multus's"}},
		{"two of weir", map[string]string{"00-weir.conflist": ownEntry, "90-weir.conflist": ownEntry},
			[]string{"ok configuration", "warn others: 90-weir.conflist has weir in it too"}},
		{"one that cannot be read", map[string]string{"00-weir.conflist": ownEntry, "50-x.conf": "{"},
			[]string{"ok configuration", "warn others: 50-x.conf"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := newExam(t)
			for name, content := range test.files {
				write(t, filepath.Join(e.ConfDir, name), content)
			}
			e.configuration(t.Context())
			e.expect(t, test.want...)
		})
	}
	e := newExam(t)
	write(t, filepath.Join(e.ConfDir, "file"), "")
	e.ConfDir = filepath.Join(e.ConfDir, "file")
	e.configuration(t.Context())
	if len(e.findings) == 0 || e.findings[0].Status != Fail {
		t.Errorf("a file for a directory: %+v", e.findings)
	}
}

// The agent is asked with the configuration that a runtime would give it.
func TestAttaching(t *testing.T) {
	t.Parallel()
	for want, failure := range map[string]string{"ok attaching": "", "fail attaching: not ready": `"error":{"code":50,"msg":"not ready"}`} {
		for file, content := range map[string]string{"00-weir.conflist": ownEntry, "00-weir.conf": `{"cniVersion":"1.0.0","name":"lan","type":"weir","socket":"/s"}`} {
			e := newExam(t)
			e.answers = true
			e.serve(t, func(w http.ResponseWriter, r *http.Request) {
				var request api.CNIRequest
				var config map[string]any
				if json.NewDecoder(r.Body).Decode(&request) != nil || json.Unmarshal(request.Config, &config) != nil ||
					request.Command != "STATUS" || request.Path != e.BinDir || config["name"] != "lan" || config["socket"] != "/s" {
					http.Error(w, fmt.Sprintf("%+v", request), http.StatusBadRequest)
					return
				}
				fmt.Fprintf(w, "{%s}", failure)
			})
			write(t, filepath.Join(e.ConfDir, file), content)
			e.configuration(t.Context())
			e.expect(t, "ok configuration: ", want, "ok others: ")
		}
	}
}

func TestPlugin(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ script, want string }{
		"none":            {"", "fail plugin: no such file"},
		"one that works":  {"#!/bin/sh\necho '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.0.0\",\"1.1.0\"]}'\n", "ok plugin: up to CNI 1.1.0"},
		"one that fails":  {"#!/bin/sh\nexit 1\n", "fail plugin: exit status 1"},
		"no plugin":       {"#!/bin/sh\necho hello\n", "fail plugin: does not work"},
		"of no version":   {"#!/bin/sh\necho '{}'\n", "fail plugin: does not work"},
		"no program":      {"text", "fail plugin: does not work"},
		"cut off by half": {"\x7fELF\x02", "fail plugin: does not work"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newExam(t)
			if test.script != "" {
				write(t, filepath.Join(e.BinDir, "weir"), test.script)
			}
			e.plugin(t.Context())
			e.expect(t, test.want)
		})
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	e := newExam(t)
	e.records()
	e.expect(t, "fail records: no such file or directory")

	tests := []struct {
		name   string
		record state.Record
		pins   string // a directory among the pins
		want   []string
	}{
		{"whole", state.Record{Phase: state.Ready, Netns: "/proc/self/ns/net"}, "c1-net1",
			[]string{"ok records: 1 sandboxes", "ok sandboxes", "ok leftovers"}},
		{"under way", state.Record{Phase: state.Adding, Created: time.Now()}, "c1-net1",
			[]string{"ok records", "ok sandboxes", "ok leftovers"}},
		{"cut off", state.Record{Phase: state.Adding, Pod: attachment.Pod{Namespace: "shop", Name: "web"}}, "c1-net1",
			[]string{"ok records", "warn sandboxes: the ADD of shop/web was cut off", "ok leftovers"}},
		{"stuck", state.Record{Phase: state.Deleting}, "c1-net1",
			[]string{"ok records", "warn sandboxes: that of container c1 could not be taken away", "ok leftovers"}},
		{"its namespace is gone", state.Record{Phase: state.Ready, Netns: "/run/netns/none-of-this-name"}, "c1-net1",
			[]string{"ok records", "warn sandboxes: the namespace of container c1 is gone", "ok leftovers"}},
		{"pins of nobody", state.Record{Phase: state.Ready}, "c2-net1",
			[]string{"ok records", "ok sandboxes", "warn leftovers: c2-net1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := newExam(t)
			dir, err := state.Open(filepath.Join(e.StateDir, state.RecordsDir))
			if err != nil {
				t.Fatal(err)
			}
			test.record.ContainerID = "c1"
			id := attachment.ID{ContainerID: "c1", Interface: "net1"}
			test.record.Delegates = []state.Delegate{{Default: true}, {Attachment: &attachment.Attachment{ID: id, PinDir: "c1-net1"}}}
			if err := dir.Save(&test.record); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(e.BPFDir, test.pins), 0o700); err != nil {
				t.Fatal(err)
			}
			e.records()
			e.expect(t, test.want...)
		})
	}
}

func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	e := newExam(t)
	if err := os.Mkdir(filepath.Join(e.StateDir, state.RecordsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(e.StateDir, state.RecordsDir, "c1.json"), "{}")
	e.records()
	e.expect(t, "fail records: c1.json: the record is damaged", "ok sandboxes", "ok leftovers")
}

func TestFilesystem(t *testing.T) {
	t.Parallel()
	e := newExam(t)
	e.filesystem()
	e.expect(t, "fail bpffs: is not in a bpffs")
	e = newExam(t)
	e.BPFDir = filepath.Join(e.BPFDir, "none")
	e.filesystem()
	e.expect(t, "fail bpffs: is not there")
}

func TestWorst(t *testing.T) {
	t.Parallel()
	tests := map[Status][]Finding{
		OK:   {{Status: OK}},
		Warn: {{Status: OK}, {Status: Warn}, {Status: OK}},
		Fail: {{Status: Fail}, {Status: Warn}},
	}
	for want, findings := range tests {
		if got := Worst(findings); got != want {
			t.Errorf("%v: %s", findings, got)
		}
	}
}
