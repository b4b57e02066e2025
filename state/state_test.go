// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/attachment"
)

func record(id string) *Record {
	return &Record{
		ContainerID: id,
		Netns:       "/run/netns/a",
		Pod:         attachment.Pod{Namespace: "default", Name: "web", UID: "1"},
		Phase:       Ready,
		Config:      json.RawMessage(`{"type":"weir"}`),
		Path:        []string{"/opt/cni/bin"},
		Delegates: []Delegate{{
			Interface:     "net1",
			Network:       "default/lan",
			Config:        json.RawMessage(`{"type":"macvlan"}`),
			RuntimeConfig: map[string]any{"mac": "02:00:00:00:00:01"},
			Args:          [][2]string{{"IP", "192.0.2.1/24"}},
			Attachment: &attachment.Attachment{
				ID:        attachment.ID{ContainerID: id, Interface: "net1"},
				Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
				Created:   time.Unix(1, 0).UTC(),
			},
		}},
		Created: time.Unix(1, 0).UTC(),
	}
}

func open(t *testing.T) *Dir {
	t.Helper()
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSaveLoadDelete(t *testing.T) {
	t.Parallel()
	d := open(t)
	want := record("abc")
	if err := d.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Load("abc")
	if err != nil {
		t.Fatal(err)
	}
	compareAddresses := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, got, compareAddresses); diff != "" {
		t.Errorf("(-saved +loaded):\n%s", diff)
	}
	for range 2 {
		if err := d.Delete("abc"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Load("abc"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Delete: %v", err)
	}
}

func TestDamagedRecordsAreTold(t *testing.T) {
	t.Parallel()
	whole, err := encode(record("abc"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)-3] ^= 1
	tests := map[string][]byte{
		"empty":      {},
		"torn":       whole[:len(whole)/2],
		"one bit":    flipped,
		"no sum":     whole[sumLength+1:],
		"other JSON": []byte(sum([]byte("[]")) + "\n[]"),
	}
	for name, data := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t)
			if err := os.WriteFile(filepath.Join(d.path, "abc.json"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := d.Save(record("def")); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Load("abc"); !errors.Is(err, ErrCorrupt) {
				t.Errorf("Load: %v", err)
			}
			records, err := d.List()
			if len(records) != 1 || !errors.Is(err, ErrCorrupt) {
				t.Errorf("List: %d records, %v: want the good one and the error", len(records), err)
			}
		})
	}
}

func TestRecordsThatAreNotOurs(t *testing.T) {
	t.Parallel()
	signed := func(body string) []byte { return []byte(sum([]byte(body)) + "\n" + body) }
	tests := map[string]struct {
		data []byte
		want error
	}{
		"of a newer weir":      {signed(`{"version":2,"containerID":"abc","delegates":{"another":"form"}}`), ErrVersion},
		"without a version":    {signed(`{"containerID":"abc"}`), ErrVersion},
		"of another container": {signed(`{"version":1,"containerID":"def"}`), ErrCorrupt},
		"of no container":      {signed(`{"version":1}`), ErrCorrupt},
		"of the wrong types":   {signed(`{"version":1,"containerID":7}`), ErrCorrupt},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t)
			if err := os.WriteFile(filepath.Join(d.path, "abc.json"), test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Load("abc"); !errors.Is(err, test.want) {
				t.Errorf("Load: %v, want %v", err, test.want)
			}
			if records, err := d.List(); len(records) != 0 || !errors.Is(err, test.want) {
				t.Errorf("List: %d records, %v, want %v", len(records), err, test.want)
			}
		})
	}
}

// An agent killed before the rename leaves the record of before, and no more.
func TestAWriteThatIsCutOffChangesNothing(t *testing.T) {
	t.Parallel()
	d := open(t)
	if err := d.Save(record("abc")); err != nil {
		t.Fatal(err)
	}
	changed := record("abc")
	changed.Phase = Deleting
	data, err := encode(changed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.path, temporary+"1"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Open(d.path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Load("abc")
	if err != nil || got.Phase != Ready {
		t.Errorf("record %+v, %v; want the one of before", got, err)
	}
	if left, _ := os.ReadDir(d.path); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// A write that fails leaves neither a temporary file nor a changed record.
func TestARecordThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	d := open(t)
	if err := d.Save(record("abc")); err != nil {
		t.Fatal(err)
	}
	bad := record("abc")
	bad.Config = json.RawMessage("{")
	if err := d.Save(bad); err == nil {
		t.Error("a configuration that is not JSON was saved")
	}
	if err := os.Mkdir(filepath.Join(d.path, "def.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Save(record("def")); err == nil {
		t.Error("a record took the place of a directory")
	}
	if got, err := d.Load("abc"); err != nil || string(got.Config) != `{"type":"weir"}` {
		t.Errorf("record %+v, %v; want the one of before", got, err)
	}
	if left, _ := os.ReadDir(d.path); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "records")
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Save(record("abc")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "abc.json"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode().Perm(), err, want)
		}
	}
}

func TestOpenRemovesCutOffWrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{temporary + "123", "README", "x.json.bak"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if records, err := d.List(); len(records) != 0 || err != nil {
		t.Errorf("%d records, %v", len(records), err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 2 {
		t.Errorf("left: %v, want the two foreign files", left)
	}
}

func TestReadOfNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "nowhere")
	if records, err := Read(path); len(records) != 0 || err != nil {
		t.Errorf("%d records, %v", len(records), err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("Read made the directory")
	}
}

func TestNamesThatAreNoFiles(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, id := range []string{"", ".", "..", "../x", "a/b", ".tmp-1"} {
		if err := d.Save(&Record{ContainerID: id}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestConcurrentSaves(t *testing.T) {
	t.Parallel()
	d := open(t)
	const containers = 32
	var group sync.WaitGroup
	for i := range containers {
		group.Go(func() {
			if err := d.Save(record(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if records, err := d.List(); len(records) != containers || err != nil {
		t.Errorf("%d records, %v", len(records), err)
	}
}

// Arbitrary bytes in the place of a record, as they are and with a sum that fits.
func FuzzLoad(f *testing.F) {
	whole, err := encode(record("abc"))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(whole), string(whole[sumLength+1:]), "", "{}", `{"version":1,"containerID":"abc"}`, `{"version":1,"delegates":[{"attachment":{"addresses":["x"]}}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, content := range [][]byte{data, append([]byte(sum(data)+"\n"), data...)} {
			r, err := decode("abc", content)
			if err == nil && r.ContainerID != "abc" {
				t.Errorf("record %+v of container abc", r)
			}
			if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Errorf("error %v is neither ErrCorrupt nor ErrVersion", err)
			}
		}
	})
}
