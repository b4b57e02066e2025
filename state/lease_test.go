// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func openLeases(t *testing.T) (*Leases, string) {
	t.Helper()
	dir := t.TempDir()
	leases, err := OpenLeases(dir)
	if err != nil {
		t.Fatal(err)
	}
	return leases, dir
}

func thereAlways(string) bool { return true }

func TestLeaseLife(t *testing.T) {
	t.Parallel()
	leases, dir := openLeases(t)
	claim := &Claim{Namespace: "pods", Name: "vm", UID: "1"}
	lease, err := leases.Take(claim, HolderOf("abc", "net1"), thereAlways)
	if err != nil {
		t.Fatal(err)
	}
	lease.Result = []byte(`{}`)
	if err := leases.Save(lease); err != nil {
		t.Fatal(err)
	}
	if again, err := leases.Take(claim, HolderOf("abc", "net1"), thereAlways); err != nil || string(again.Result) != `{}` {
		t.Errorf("the holder takes it again: %+v, %v", again, err)
	}
	_, err = leases.Take(claim, HolderOf("def", "net2"), thereAlways)
	if held, is := errors.AsType[*HeldError](err); !is || RecordOf(held.Holder) != "abc" {
		t.Errorf("another takes it: %v", err)
	}
	if lease, err := leases.Drop("1", HolderOf("def", "net2")); lease != nil || err != nil {
		t.Errorf("another drops it: %v, %v", lease, err)
	}
	released := 0
	release := func(*Lease) error { released++; return nil }
	if err := leases.Remove("1", release); err != nil || released != 0 {
		t.Errorf("a lease that is held was released; error %v", err)
	}
	if lease, err := leases.Drop("1", HolderOf("abc", "net1")); lease == nil || err != nil {
		t.Errorf("the holder drops it: %v, %v", lease, err)
	}
	refuses := errors.New("refused")
	if err := leases.Remove("1", func(*Lease) error { return refuses }); !errors.Is(err, refuses) {
		t.Errorf("error %v", err)
	}
	if all, err := leases.List(); len(all) != 1 || err != nil {
		t.Errorf("it went although it could not be released: %v, %v", all, err)
	}
	if err := errors.Join(leases.Remove("1", release), leases.Remove("1", release)); err != nil || released != 1 {
		t.Errorf("released %d times, error %v", released, err)
	}
	if files, err := os.ReadDir(dir); len(files) != 0 || err != nil {
		t.Errorf("left: %v, %v", files, err)
	}
}

// A holder of which nothing is known any more holds nothing.
func TestLeaseOfNobody(t *testing.T) {
	t.Parallel()
	leases, _ := openLeases(t)
	claim := &Claim{Namespace: "pods", Name: "vm", UID: "1"}
	if _, err := leases.Take(claim, HolderOf("abc", "net1"), thereAlways); err != nil {
		t.Fatal(err)
	}
	var asked string
	_, err := leases.Take(claim, HolderOf("def", "net1"), func(key string) bool { asked = key; return false })
	if err != nil || asked != "abc" {
		t.Errorf("asked for %q, error %v", asked, err)
	}
}

func TestLeasesThatAreWrong(t *testing.T) {
	t.Parallel()
	leases, dir := openLeases(t)
	if _, err := leases.Take(&Claim{UID: "../1"}, "a/net1", thereAlways); err == nil {
		t.Error("a UID led elsewhere")
	}
	if _, err := leases.Take(&Claim{UID: "1"}, "a/net1", thereAlways); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "1.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"2.json": data, "3.json": data[:len(data)-1], "4.json": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := leases.List()
	if len(all) != 1 || !errors.Is(err, ErrCorrupt) {
		t.Errorf("%d leases, error %v", len(all), err)
	}
	if _, err := leases.Drop("3", "a/net1"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	if lease, err := leases.Take(&Claim{UID: "3"}, "a/net1", thereAlways); err != nil || lease.Holder != "a/net1" {
		t.Errorf("a damaged one is not made anew: %+v, %v", lease, err)
	}
}
