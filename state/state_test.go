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

func FuzzDecode(f *testing.F) {
	whole, err := encode(record("abc"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(sum([]byte("{}")) + "\n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := decode(data); (r == nil) == (err == nil) {
			t.Errorf("record %v, error %v", r, err)
		}
	})
}
