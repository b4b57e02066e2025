// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/weir-cni/weir/attachment"
)

// folder is a store on a folder that a test writes.
type folder struct {
	*Store
	t   *testing.T
	dir string
	log *logged
}

// logged is a log that tests read while it is written.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func open(t *testing.T, files map[string]string) *folder {
	t.Helper()
	f := &folder{t: t, dir: t.TempDir(), log: &logged{}}
	for name, content := range files {
		f.write(name, content)
	}
	log := slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store, err := Open(f.dir, filepath.Join(t.TempDir(), "status"), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	f.Store = store
	return f
}

func (f *folder) write(name, content string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func network(namespace, name, config string) string {
	return fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\n"+
		"metadata: {name: %s, namespace: %s}\nspec:\n  config: '%s'\n", name, namespace, config)
}

func pod(name string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\n"
}

func (f *folder) config(namespace, name string) string {
	f.t.Helper()
	found, err := f.Network(f.t.Context(), namespace, name)
	if err != nil {
		f.t.Fatal(err)
	}
	return found.Spec.Config
}

func TestObjectsOfEveryForm(t *testing.T) {
	t.Parallel()
	list := `{"apiVersion":"v1","kind":"List","items":[` +
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"in-list","namespace":"a"}}]}`
	f := open(t, map[string]string{
		"one.yaml":    network("a", "lan", "{}"),
		"many.yml":    "---\n# nothing\n---\n" + network("b", "wan", "{}") + "---\n" + pod("web"),
		"list.json":   list,
		"other.yaml":  "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
		"notes.txt":   "not a manifest",
		".hidden.yml": "{",
		"empty.yaml":  "",
	})
	for _, want := range []key{{"a", "lan"}, {"b", "wan"}} {
		if got := f.config(want.namespace, want.name); got != "{}" {
			t.Errorf("network %v: %q", want, got)
		}
	}
	for _, want := range []key{{"default", "web"}, {"a", "in-list"}} {
		if _, err := f.Pod(t.Context(), want.namespace, want.name); err != nil {
			t.Error(err)
		}
	}
	if text := f.log.String(); strings.Contains(text, "level=ERROR") || !strings.Contains(text, "ConfigMap") {
		t.Errorf("log: %s", text)
	}
}

func TestNotFound(t *testing.T) {
	t.Parallel()
	f := open(t, map[string]string{"one.yaml": network("a", "lan", "{}")})
	if _, err := f.Network(t.Context(), "b", "lan"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "b/lan") {
		t.Errorf("network: %v", err)
	}
	if _, err := f.Pod(t.Context(), "a", "lan"); !errors.Is(err, ErrNotFound) {
		t.Errorf("pod: %v", err)
	}
}

func TestFilesThatAreNotRight(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ content, says string }{
		"not YAML":        {"a: [", "document 1"},
		"second document": {pod("a") + "---\n" + "kind: 5: 6\n", "document 2"},
		"no kind":         {"metadata: {name: a}\n", "kind is missing"},
		"no name":         {"apiVersion: v1\nkind: Pod\n", "metadata.name is missing"},
		"a path":          {pod("../x"), "metadata.name"},
		"a bad namespace": {network("a/b", "lan2", "{}"), "metadata.namespace"},
		"twice":           {pod("a") + "---\n" + pod("a"), "twice"},
		"wrong type":      {"apiVersion: v1\nkind: Pod\nmetadata: 7\n", "document 1"},
		"too large":       {"# " + strings.Repeat("x", fileMax), "larger than"},
		"a bad item":      {`{"apiVersion":"v1","kind":"List","items":[{"kind":"Pod","apiVersion":"v1"}]}`, "items[0]"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t, map[string]string{"bad.yaml": test.content, "good.yaml": network("a", "lan", "{}")})
			f.config("a", "lan")
			if text := f.log.String(); !strings.Contains(text, "file=bad.yaml") || !strings.Contains(text, test.says) {
				t.Errorf("log does not say %q: %s", test.says, text)
			}
			if _, err := f.Pod(t.Context(), "default", "nobody"); !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			if n := strings.Count(f.log.String(), "file=bad.yaml"); n != 1 {
				t.Errorf("named %d times in the log, want once", n)
			}
		})
	}
}

func TestAFileThatBreaksKeepsItsContent(t *testing.T) {
	t.Parallel()
	f := open(t, map[string]string{"one.yaml": network("a", "lan", "{}")})
	f.write("one.yaml", "kind: [")
	if err := f.reload(); err != nil {
		t.Fatal(err)
	}
	f.config("a", "lan")
	f.write("one.yaml", network("a", "lan", `{"type":"x"}`))
	if err := f.reload(); err != nil {
		t.Fatal(err)
	}
	if got := f.config("a", "lan"); got != `{"type":"x"}` {
		t.Errorf("after it was mended: %q", got)
	}
}

func TestTheFirstFileCounts(t *testing.T) {
	t.Parallel()
	f := open(t, map[string]string{
		"b.yaml": network("a", "lan", "second"),
		"a.yaml": network("a", "lan", "first"),
	})
	if got := f.config("a", "lan"); got != "first" {
		t.Errorf("%q counts", got)
	}
	if !strings.Contains(f.log.String(), "two files") {
		t.Error("nothing in the log")
	}
}

func TestAnObjectWrittenAnInstantAgoIsFound(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	f.write("new.yaml", pod("new"))
	if _, err := f.Pod(t.Context(), "default", "new"); err != nil {
		t.Error(err)
	}
}

// An object that is there is answered from memory: changes come by the watch.
func TestChangesAreFollowed(t *testing.T) {
	t.Parallel()
	changes := map[string]func(f *folder){
		"written": func(f *folder) { f.write("one.yaml", network("a", "lan", "new")) },
		"renamed over": func(f *folder) {
			f.write("one.tmp", network("a", "lan", "new"))
			if err := os.Rename(filepath.Join(f.dir, "one.tmp"), filepath.Join(f.dir, "one.yaml")); err != nil {
				f.t.Error(err)
			}
		},
		"another file goes before it": func(f *folder) { f.write("0.yaml", network("a", "lan", "new")) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t, map[string]string{"one.yaml": network("a", "lan", "old")})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.Run(ctx) }()
			change(f)
			for range 100 {
				if f.config("a", "lan") == "new" {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if got := f.config("a", "lan"); got != "new" {
				t.Errorf("still %q", got)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestARemovedFileTakesItsObjectsAlong(t *testing.T) {
	t.Parallel()
	f := open(t, map[string]string{"one.yaml": network("a", "lan", "{}")})
	if err := os.Remove(filepath.Join(f.dir, "one.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := f.reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Network(t.Context(), "a", "lan"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestAFolderThatIsNotThere(t *testing.T) {
	t.Parallel()
	_, err := Open(filepath.Join(t.TempDir(), "none"), t.TempDir(), slog.New(slog.DiscardHandler))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestNetworkStatus(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	pod := attachment.Pod{Namespace: "a", Name: "web"}
	want := []nadv1.NetworkStatus{{Name: "a/lan", Interface: "net1", IPs: []string{"192.0.2.1"}}}
	if err := f.SetNetworkStatus(t.Context(), pod, want); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(f.statusDir, "a.web.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got []nadv1.NetworkStatus
	if err := json.Unmarshal(data, &got); err != nil || len(got) != 1 || got[0].Name != "a/lan" {
		t.Errorf("%s, %v", data, err)
	}
	for range 2 {
		if err := f.SetNetworkStatus(t.Context(), pod, nil); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(f.statusDir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(network("a", "lan", "{}")))
	f.Add([]byte(pod("a") + "---\n" + pod("b")))
	f.Add([]byte(`{"kind":"List","items":[{}]}`))
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := decode(bytes.NewReader(data), log)
		if (found == nil) == (err == nil) {
			t.Errorf("objects %v, error %v", found, err)
		}
	})
}
