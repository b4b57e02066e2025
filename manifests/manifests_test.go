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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
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
	f := &folder{t: t, dir: t.TempDir()}
	for name, content := range files {
		f.write(name, content)
	}
	f.open()
	return f
}

func (f *folder) open() {
	f.t.Helper()
	f.log = &logged{}
	log := slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store, err := Open(f.dir, filepath.Join(f.t.TempDir(), "status"), log)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = store.Close() })
	f.Store = store
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
		if _, err := f.Pod(t.Context(), attachment.Pod{Namespace: want.namespace, Name: want.name}); err != nil {
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
	if _, err := f.Pod(t.Context(), attachment.Pod{Namespace: "a", Name: "lan"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("pod: %v", err)
	}
}

func TestFilesThatAreNotRight(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ content, says string }{
		"not YAML":          {"a: [", "document 1"},
		"second document":   {pod("a") + "---\n" + "kind: 5: 6\n", "document 2"},
		"no kind":           {"metadata: {name: a}\n", "kind is missing"},
		"no name":           {"apiVersion: v1\nkind: Pod\n", "metadata.name is missing"},
		"a path":            {pod("../x"), "metadata.name"},
		"a bad namespace":   {network("a/b", "lan2", "{}"), "metadata.namespace"},
		"twice":             {pod("a") + "---\n" + pod("a"), "twice"},
		"wrong type":        {"apiVersion: v1\nkind: Pod\nmetadata: 7\n", "document 1"},
		"too large":         {"# " + strings.Repeat("x", fileMax), "larger than"},
		"a list in a list":  {`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"PodList","items":[]}]}`, "a list in a list"},
		"lists without end": {strings.Repeat(`{"kind":"List","items":[`, 4000) + strings.Repeat("]}", 4000), "a list in a list"},
		"a bad item":        {`{"apiVersion":"v1","kind":"List","items":[{"kind":"Pod","apiVersion":"v1"}]}`, "items[0]"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t, map[string]string{"bad.yaml": test.content, "good.yaml": network("a", "lan", "{}")})
			f.config("a", "lan")
			if text := f.log.String(); !strings.Contains(text, "file=bad.yaml") || !strings.Contains(text, test.says) {
				t.Errorf("log does not say %q: %s", test.says, text)
			}
			if _, err := f.Pod(t.Context(), attachment.Pod{Namespace: "default", Name: "nobody"}); !errors.Is(err, ErrNotFound) {
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
	if _, err := f.Pod(t.Context(), attachment.Pod{Namespace: "default", Name: "new"}); err != nil {
		t.Error(err)
	}
}

// must is for the steps of a test that have to succeed.
func (f *folder) must(errs ...error) {
	f.t.Helper()
	if err := errors.Join(errs...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

// follow runs the store until the test ends.
func (f *folder) follow(poll time.Duration) {
	f.poll = poll
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
}

func (f *folder) await(what string, holds func() bool) {
	f.t.Helper()
	for range 250 {
		if holds() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	f.t.Errorf("waited for %s in vain", what)
}

func (f *folder) awaitConfig(want string) {
	f.t.Helper()
	f.await("the configuration "+want, func() bool { return f.config("a", "lan") == want })
}

const never = time.Hour

// An object that is there is answered from memory: changes come by the watch.
func TestChangesAreFollowed(t *testing.T) {
	t.Parallel()
	changes := map[string]func(f *folder){
		"written": func(f *folder) { f.write("one.yaml", network("a", "lan", "new")) },
		"renamed over": func(f *folder) {
			f.write("one.tmp", network("a", "lan", "new"))
			f.must(os.Rename(f.path("one.tmp"), f.path("one.yaml")))
		},
		"another file goes before it": func(f *folder) { f.write("0.yaml", network("a", "lan", "new")) },
		"removed, and one after it holds it too": func(f *folder) {
			f.write("two.yaml", network("a", "lan", "new"))
			f.must(os.Remove(f.path("one.yaml")))
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t, map[string]string{"one.yaml": network("a", "lan", "old")})
			f.follow(never)
			change(f)
			f.awaitConfig("new")
		})
	}
}

// A volume of a ConfigMap: each file is a link through ..data, which is renamed
// over to lead to a new directory.
func TestAVolumeOfKubernetesIsFollowed(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	version := func(dir, config string) {
		f.must(os.Mkdir(f.path(dir), 0o700))
		f.write(dir+"/lan.yaml", network("a", "lan", config))
		f.must(os.Symlink(dir, f.path("..data_tmp")), os.Rename(f.path("..data_tmp"), f.path("..data")))
	}
	version("..1", "old")
	f.must(os.Symlink("..data/lan.yaml", f.path("lan.yaml")))
	f.follow(never)
	f.awaitConfig("old")
	version("..2", "new")
	f.must(os.RemoveAll(f.path("..1")))
	f.awaitConfig("new")
	if text := f.log.String(); strings.Contains(text, "level=ERROR") {
		t.Errorf("log: %s", text)
	}
}

func TestWhatALinkLeadsToIsFollowed(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	target := filepath.Join(t.TempDir(), "elsewhere")
	f.must(os.WriteFile(target, []byte(network("a", "lan", "old")), 0o600), os.Symlink(target, f.path("lan.yaml")))
	f.follow(50 * time.Millisecond)
	f.awaitConfig("old")
	f.must(os.WriteFile(target, []byte(network("a", "lan", "new")), 0o600))
	f.awaitConfig("new")
}

// A watch stays with its folder; the store goes with the name.
func TestAFolderThatIsReplacedIsFollowed(t *testing.T) {
	t.Parallel()
	replacements := map[string]func(f *folder){
		"moved away": func(f *folder) { f.must(os.Rename(f.dir, f.dir+".old")) },
		"removed":    func(f *folder) { f.must(os.RemoveAll(f.dir)) },
	}
	for name, replace := range replacements {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t, map[string]string{"one.yaml": network("a", "lan", "old")})
			f.follow(50 * time.Millisecond)
			replace(f)
			f.await("the log", func() bool { return strings.Contains(f.log.String(), "the manifests cannot be read") })
			if _, err := f.Pod(t.Context(), attachment.Pod{Namespace: "a", Name: "web"}); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("error %v: a folder that is not there says nothing of a pod", err)
			}
			f.must(os.Mkdir(f.dir, 0o700))
			f.write("one.yaml", network("a", "lan", "new"))
			f.awaitConfig("new")
			f.write("one.yaml", network("a", "lan", "newer"))
			f.awaitConfig("newer")
			if n := strings.Count(f.log.String(), "the manifests cannot be read"); n != 1 {
				t.Errorf("told %d times in the log, want once", n)
			}
		})
	}
}

// Nobody looked while the folder was not there.
func TestAFolderThatIsReplacedUnseenIsFollowed(t *testing.T) {
	t.Parallel()
	replacements := map[string]func(f *folder){
		"moved away": func(f *folder) { f.must(os.Rename(f.dir, f.dir+".old"), os.Mkdir(f.dir, 0o700)) },
		"removed":    func(f *folder) { f.must(os.RemoveAll(f.dir), os.Mkdir(f.dir, 0o700)) },
		"removed, and the new one has its inode": func(f *folder) {
			f.must(os.RemoveAll(f.dir), os.Mkdir(f.dir, 0o700))
			info, err := os.Stat(f.dir)
			f.must(err)
			f.watched = info
		},
	}
	for name, replace := range replacements {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t, map[string]string{"one.yaml": network("a", "lan", "old")})
			replace(f)
			f.write("one.yaml", network("a", "lan", "new"))
			f.must(f.look())
			f.follow(never)
			f.awaitConfig("new")
			time.Sleep(300 * time.Millisecond) // the events of the old folder are not to show the next change
			f.write("one.yaml", network("a", "lan", "newer"))
			f.awaitConfig("newer")
		})
	}
}

func TestAFolderBehindALinkIsFollowed(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	f := &folder{t: t, dir: filepath.Join(parent, "one")}
	for _, name := range []string{"one", "two"} {
		f.must(os.Mkdir(filepath.Join(parent, name), 0o700))
	}
	f.write("lan.yaml", network("a", "lan", "old"))
	f.write("../two/lan.yaml", network("a", "lan", "new"))
	f.dir = filepath.Join(parent, "link")
	f.must(os.Symlink("one", f.dir))
	f.open()
	f.must(os.Symlink("two", f.dir+".new"), os.Rename(f.dir+".new", f.dir), f.look())
	f.awaitConfig("new")
	f.follow(never)
	f.write("lan.yaml", network("a", "lan", "newer"))
	f.awaitConfig("newer")
}

// The time of a change can be set back; neither it nor the length tells.
func TestAChangeThatKeepsLengthAndTime(t *testing.T) {
	t.Parallel()
	f := open(t, map[string]string{"one.yaml": network("a", "lan", "old")})
	time.Sleep(2 * clockTick) // from here on the stamp alone tells
	f.must(f.reload())
	info, err := os.Stat(f.path("one.yaml"))
	f.must(err)
	f.write("one.yaml", network("a", "lan", "new"))
	f.must(os.Chtimes(f.path("one.yaml"), info.ModTime(), info.ModTime()), f.reload())
	if got := f.config("a", "lan"); got != "new" {
		t.Errorf("still %q", got)
	}
}

func TestStampsSettle(t *testing.T) {
	t.Parallel()
	changed := time.Unix(1000, 0)
	s := stamp{changed: changed.UnixNano()}
	tests := map[string]struct {
		now  time.Time
		want bool
	}{
		"at once":              {changed, false},
		"a tick later":         {changed.Add(clockTick), false},
		"long after":           {changed.Add(time.Second), true},
		"a file of tomorrow's": {changed.Add(-24 * time.Hour), false},
	}
	for name, test := range tests {
		if got := s.isSettled(test.now); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// A file that is read again because its stamp has not settled is not told again.
func TestAFileIsToldOnce(t *testing.T) {
	t.Parallel()
	f := open(t, map[string]string{
		"bad.yaml": "kind: [",
		"a.yaml":   pod("web"),
		"b.yaml":   pod("web"),
	})
	f.must(os.Symlink("nowhere", f.path("link.yaml")))
	for range 5 {
		f.must(f.reload())
		time.Sleep(clockTick / 2)
	}
	for _, file := range []string{"bad.yaml", "b.yaml", "link.yaml"} {
		if n := strings.Count(f.log.String(), "file="+file); n != 1 {
			t.Errorf("%s is told %d times, want once:\n%s", file, n, f.log)
		}
	}
	f.write("bad.yaml", "kind: {")
	f.must(f.reload())
	if n := strings.Count(f.log.String(), "file=bad.yaml"); n != 2 {
		t.Errorf("after another fault it is told %d times, want twice", n)
	}
}

func TestALinkThatBreaksKeepsItsContent(t *testing.T) {
	t.Parallel()
	f := open(t, map[string]string{"one.yaml": network("a", "lan", "old")})
	f.must(os.Remove(f.path("one.yaml")), os.Symlink("nowhere", f.path("one.yaml")), f.reload())
	if got := f.config("a", "lan"); got != "old" {
		t.Errorf("%q", got)
	}
}

// What is called as a manifest and is no file is passed over, and not waited for.
func TestWhatIsNoFile(t *testing.T) {
	t.Parallel()
	f := open(t, map[string]string{"good.yaml": pod("web")})
	f.must(os.Mkdir(f.path("dir.yaml"), 0o700), syscall.Mkfifo(f.path("pipe.yaml"), 0o600))
	f.write("dir.yaml/inner.yaml", pod("inner"))
	f.must(f.reload())
	if _, err := f.Pod(t.Context(), attachment.Pod{Namespace: "default", Name: "inner"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a folder within the folder is read: %v", err)
	}
	if _, err := f.Pod(t.Context(), attachment.Pod{Namespace: "default", Name: "web"}); err != nil {
		t.Error(err)
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
	want := []cni.NetworkStatus{{Name: "a/lan", Interface: "net1", IPs: []string{"192.0.2.1"}}}
	if err := f.SetNetworkStatus(t.Context(), pod, want); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(f.statusDir, "a.web.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got []cni.NetworkStatus
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

// An old sandbox of a pod goes while its new one comes.
func TestConcurrentNetworkStatuses(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	pod := attachment.Pod{Namespace: "a", Name: "web"}
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			status := slices.Repeat([]cni.NetworkStatus{{Name: fmt.Sprint(i)}}, i+1)
			if err := f.SetNetworkStatus(t.Context(), pod, status); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	data, err := os.ReadFile(filepath.Join(f.statusDir, "a.web.json"))
	var got []cni.NetworkStatus
	if err = errors.Join(err, json.Unmarshal(data, &got)); err != nil || got[0].Name != fmt.Sprint(len(got)-1) {
		t.Errorf("%v, %s", err, data)
	}
	if left, _ := os.ReadDir(f.statusDir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestNetworkStatusOfNoFileName(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	for _, pod := range []attachment.Pod{{Namespace: "a", Name: "../../x"}, {Namespace: "../a", Name: "x"}} {
		for _, status := range [][]cni.NetworkStatus{nil, {}} {
			if err := f.SetNetworkStatus(t.Context(), pod, status); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s: %v", pod, err)
			}
		}
	}
}

func TestOpenRemovesStatusesThatWereCutOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{temporary + "1", "a.web.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := Open(t.TempDir(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != "a.web.json" {
		t.Errorf("left: %v", left)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(network("a", "lan", "{}")))
	f.Add([]byte(pod("a") + "---\n" + pod("b")))
	f.Add([]byte(`{"kind":"List","items":[{}]}`))
	f.Add([]byte(`{"kind":"List","items":[{"kind":"List","items":[null]}]}`))
	f.Add([]byte("a: &a [*a]\nkind: X\n"))
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := decode(bytes.NewReader(data), log)
		if (found == nil) == (err == nil) {
			t.Errorf("objects %v, error %v", found, err)
		}
	})
}
