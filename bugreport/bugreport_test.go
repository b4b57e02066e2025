// SPDX-License-Identifier: Apache-2.0

package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/doctor"
	"github.com/weir-cni/weir/state"
)

// planted is in everything that must not be told.
const planted = "hunter2"

func newNode(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	o := Options{Name: "report", Now: time.Unix(1, 0), Options: doctor.Options{
		Socket: filepath.Join(dir, "weir.sock"), StateDir: filepath.Join(dir, "state"), BPFDir: filepath.Join(dir, "bpf"),
		ConfDir: filepath.Join(dir, "conf"), BinDir: filepath.Join(dir, "bin"), Version: "v1",
	}}
	for _, d := range []string{o.StateDir, o.BPFDir, o.ConfDir, o.BinDir, filepath.Join(o.ConfDir, "multus.d")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func (o *Options) put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(o.ConfDir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read unpacks a report.
func read(t *testing.T, data []byte) map[string]string {
	t.Helper()
	compressed, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(compressed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if header.Mode != 0o600 {
			t.Errorf("%s has mode %o", header.Name, header.Mode)
		}
		files[strings.TrimPrefix(header.Name, "report/")] = string(content)
	}
}

// plant puts a secret wherever one may be: in configurations under keys of all kinds, in
// files beside them, in a record, in what the agent says.
func (o *Options) plant(t *testing.T) {
	t.Helper()
	o.put(t, "00-weir.conflist", `{"cniVersion":"1.0.0","name":"lan","plugins":[{"type":"weir","clusterNetwork":"/etc/cni/net.d/10-x.conflist",
		"kubeconfig":"/etc/hunter2.kubeconfig","password":"hunter2","env":[{"name":"hunter2","value":"hunter2"}]}]}`)
	o.put(t, "10-x.conflist", `{"cniVersion":"1.0.0","name":"lan","plugins":[{"type":"calico","master":"eth7","ipam":{"type":"x","subnet":"10.1.0.0/16","x-token":"hunter2"},
		"policy":{"type":"hunter2","k8s_api_token":"hunter2"},"kubernetes":{"name":["hunter2"],"pin":4711,"inner":{"type":"hunter2"}},"args":{"cni":{"name":"hunter2"}}}]}`)
	o.put(t, "20-url.conf", `{"cniVersion":"1.0.0","name":"https://me:hunter2@host/","type":"x"}`)
	o.put(t, "30-jwt.conf", `{"cniVersion":"1.0.0","name":"eyJhbGciOiJIUzI1NiJ9.hunter2.hunter2","type":"x"}`)
	o.put(t, "40-broken.conf", `{"password": "hunter2"`)
	o.put(t, "50-list.json", `["hunter2", {"password": "hunter2"}]`)
	o.put(t, "60-pem.conf", `{"cniVersion":"1.0.0","name":"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----","type":"x"}`)
	o.put(t, "weir.kubeconfig", "token: hunter2")
	o.put(t, "multus.d/multus.kubeconfig", "token: hunter2")
	o.plantRecord(t)
	o.plantAgent(t)
}

func (o *Options) plantRecord(t *testing.T) {
	t.Helper()
	records, err := state.Open(filepath.Join(o.StateDir, state.RecordsDir))
	if err != nil {
		t.Fatal(err)
	}
	a := attachment.Attachment{ID: attachment.ID{ContainerID: "c1", Interface: "net1"}, Network: "shop/lan", Master: "eth1", PinDir: "c1-net1"}
	secret := json.RawMessage(`{"type":"macvlan","master":"eth1","secretRef":"hunter2","options":{"x":"hunter2"}}`)
	err = records.Save(&state.Record{
		ContainerID: "c1", Phase: state.Ready, Config: secret, Args: "IgnoreUnknown=1;TOKEN=hunter2", Path: []string{"/opt/cni/bin"},
		Delegates: []state.Delegate{{
			Interface: "net1", Network: "shop/lan", Attachment: &a, Config: secret, Result: secret, Saved: secret,
			Selection:     json.RawMessage(`{"name":"lan","cni-args":{"name":"hunter2"}}`),
			RuntimeConfig: map[string]any{"bandwidth": map[string]any{"egressRate": 8000}, "vault": map[string]any{"type": "hunter2"}},
			Args:          [][2]string{{"TOKEN", "hunter2"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (o *Options) plantAgent(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("unix", o.Socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc(api.VersionPath, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version":"v1"}`) })
	mux.HandleFunc(api.MetricsPath, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "weir_attachments 1\n# Authorization: Bearer hunter2hunter2\n")
	})
	mux.HandleFunc(api.CNIPath, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"error":{"code":50,"msg":"asking https://me:hunter2@api/ with password=hunter2 and {\\"token\\": \\"hunter2\\"}"}}`)
	})
	mux.HandleFunc(api.AttachmentsPath, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "token: hunter2", http.StatusServiceUnavailable)
	})
	mux.HandleFunc(api.DropsPath, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.DropList{APIVersion: api.Version, Items: []api.DroppedPacket{
			{Pod: attachment.Pod{Namespace: "shop", Name: "web"}, Reason: "spoofed_mac", Length: 64, Packet: []byte("\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x88\xccpassword=" + planted)},
		}})
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func TestNoSecretIsTold(t *testing.T) {
	t.Setenv("WEIR_TOKEN", planted)
	o := newNode(t)
	o.plant(t)
	var out bytes.Buffer
	parts, err := Write(t.Context(), &out, o)
	if err != nil {
		t.Fatal(err)
	}
	files := read(t, out.Bytes())
	for name, content := range files {
		if strings.HasSuffix(name, ".txt") == json.Valid([]byte(content)) {
			t.Errorf("%s is\n%s", name, content)
		}
		if strings.Contains(content, planted) || strings.Contains(content, "4711") {
			t.Errorf("%s tells a secret:\n%s", name, content)
		}
	}
	if data, err := json.Marshal(parts); err != nil || strings.Contains(string(data), planted) {
		t.Errorf("the list tells a secret: %s, %v", data, err)
	}
	// What helps is told all the same.
	for name, tells := range map[string][]string{
		"versions.txt":         {"weirctl v1\n", "agent v1\n", "kernel "},
		"doctor.json":          {`"check": "kernel"`, "could attach no pod"},
		"drops.json":           {`"reason": "spoofed_mac"`, `"packet": null`, "02:00:00:00:00:01 > 02:00:00:00:00:02 ethertype 0x88cc"},
		"metrics.txt":          {"weir_attachments 1\n"},
		"cni/00-weir.conflist": {`"type": "weir"`, "10-x.conflist", `"password": "(redacted)"`},
		"cni/10-x.conflist":    {`"master": "eth7"`, "10.1.0.0/16", `"type": "calico"`},
		"records/c1.json":      {`"phase": "ready"`, `"master": "eth1"`, `"egressRate": 8000`, "/opt/cni/bin"},
		"configurations.txt":   {"weir.kubeconfig\n", "multus.d\n", "40-broken.conf\n"},
		"pins.json":            {`"items": []`},
	} {
		for _, text := range tells {
			if !strings.Contains(files[name], text) {
				t.Errorf("%s does not tell %q:\n%s", name, text, files[name])
			}
		}
	}
	checkParts(t, parts, files)
}

// checkParts compares the list with the archive.
func checkParts(t *testing.T, parts []Part, files map[string]string) {
	t.Helper()
	for _, p := range parts {
		content, there := files[p.Name]
		if there != (p.Missing == "") || p.Size != len(content) || p.What == "" {
			t.Errorf("%+v, and %d bytes are there", p, len(content))
		}
		delete(files, p.Name)
	}
	if len(files) > 0 {
		t.Errorf("not in the list: %v", files)
	}
}

// On a node where nothing is, a report says so.
func TestReportOfNothing(t *testing.T) {
	t.Parallel()
	o := Options{Name: "report", Options: doctor.Options{Socket: "/none/s", StateDir: "/none/state", BPFDir: "/none/bpf", ConfDir: "/none/conf", BinDir: "/none/bin"}}
	var out bytes.Buffer
	parts, err := Write(t.Context(), &out, o)
	if err != nil {
		t.Fatal(err)
	}
	checkParts(t, parts, read(t, out.Bytes()))
	missing := map[string]bool{}
	for _, p := range parts {
		missing[p.Name] = p.Missing != ""
	}
	if !missing["metrics.txt"] || !missing["pins.json"] || !missing["configurations.txt"] || missing["versions.txt"] || missing["doctor.json"] {
		t.Errorf("missing: %v", missing)
	}
}

type full struct{ room int }

func (f *full) Write(data []byte) (int, error) {
	if f.room -= len(data); f.room < 0 {
		return 0, errors.New("the disk is full")
	}
	return len(data), nil
}

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	for _, room := range []int{0, 20, 500} {
		if _, err := Write(t.Context(), &full{room}, newNode(t)); err == nil || !strings.Contains(err.Error(), "the disk is full") {
			t.Errorf("room for %d bytes: %v", room, err)
		}
	}
}

// Below a key that is not known nothing is told, whatever the form of the document.
func TestNothingBelowUnknownKeys(t *testing.T) {
	t.Parallel()
	key := rapid.SampledFrom([]string{"type", "name", "config", "plugins", "weir"})
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.SampledFrom([]any{planted, 4711, []any{planted}}).Draw(t, "value")
		nest := func(depth int) {
			for range depth {
				if rapid.Bool().Draw(t, "list") {
					value = []any{value}
				} else {
					value = map[string]any{key.Draw(t, "key"): value}
				}
			}
		}
		nest(rapid.IntRange(0, 4).Draw(t, "below"))
		value = map[string]any{rapid.StringMatching(`x-[a-z]{1,8}`).Draw(t, "unknown"): value}
		nest(rapid.IntRange(0, 4).Draw(t, "above"))
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		got, err := redactJSON(data)
		if err != nil || bytes.Contains(got, []byte(planted)) || bytes.Contains(got, []byte("4711")) || !json.Valid(got) {
			t.Errorf("%s became %s, %v", data, got, err)
		}
	})
}
