// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// tree is a kernel with these modules and what they depend on.
func tree(depends map[string][]string, builtin ...string) *moduleTree {
	t := &moduleTree{files: map[string]string{}, builtin: map[string]bool{}}
	for name := range depends {
		t.files[name] = name + ".ko"
	}
	for _, name := range builtin {
		t.builtin[name] = true
	}
	t.depends = func(file string) ([]string, error) {
		return depends[strings.TrimSuffix(file, ".ko")], nil
	}
	return t
}

func names(order []Loadable) []string {
	var all []string
	for _, m := range order {
		all = append(all, m.Name)
	}
	return all
}

func TestOrder(t *testing.T) {
	t.Parallel()
	kernel := tree(map[string][]string{
		"bridge": {"stp", "llc"}, "stp": {"llc"}, "llc": nil, "veth": nil, "vxlan": {"udp_tunnel", "ipv6"}, "udp_tunnel": nil,
	}, "ipv6")
	tests := []struct {
		name   string
		wanted []Module
		want   []string
	}{
		{"nothing", nil, nil},
		{"alone", []Module{{Name: "veth"}}, []string{"veth"}},
		{"after what it depends on", []Module{{Name: "bridge"}}, []string{"llc", "stp", "bridge"}},
		{"each once", []Module{{Name: "llc"}, {Name: "bridge"}, {Name: "bridge"}}, []string{"llc", "stp", "bridge"}},
		{"built in", []Module{{Name: "ipv6"}, {Name: "vxlan"}}, []string{"udp_tunnel", "vxlan"}},
		{"optional and missing", []Module{{Name: "netkit", Optional: true}, {Name: "veth"}}, []string{"veth"}},
		{"optional and there", []Module{{Name: "veth", Optional: true}}, []string{"veth"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := kernel.order(tt.wanted)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, names(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOrderNamesAllThatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := tree(map[string][]string{"vxlan": {"udp_tunnel"}}).order([]Module{{Name: "veth"}, {Name: "vxlan"}})
	want := "the kernel has no module veth\nmodule vxlan: the kernel has no module udp_tunnel"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestOrderPassesErrorsOn(t *testing.T) {
	t.Parallel()
	kernel := tree(map[string][]string{"veth": nil})
	broken := errors.New("not an ELF file")
	kernel.depends = func(string) ([]string, error) { return nil, broken }
	if _, err := kernel.order([]Module{{Name: "veth"}}); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

func TestOrderKeepsOptions(t *testing.T) {
	t.Parallel()
	got, err := tree(map[string][]string{"dummy": nil}).order([]Module{{Name: "dummy", Options: "numdummies=0"}})
	want := []Loadable{{"dummy", "dummy.ko", "numdummies=0"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

// Whatever the modules depend on, circles included, each comes once, and after
// its dependencies unless those depend on it.
func TestOrderOfAnyModules(t *testing.T) {
	t.Parallel()
	letters := []string{"a", "b", "c", "d", "e", "f"}
	rapid.Check(t, func(t *rapid.T) {
		depends := map[string][]string{}
		for i, name := range letters {
			depends[name] = rapid.SliceOfDistinct(rapid.SampledFrom(letters[i:]), rapid.ID[string]).Draw(t, name)
		}
		var wanted []Module
		for _, name := range rapid.SliceOf(rapid.SampledFrom(letters)).Draw(t, "wanted") {
			wanted = append(wanted, Module{Name: name})
		}
		order, err := tree(depends).order(wanted)
		if err != nil {
			t.Fatal(err)
		}
		got := names(order)
		for i, name := range got {
			if slices.Index(got, name) != i {
				t.Fatalf("%s twice in %v", name, got)
			}
			for _, d := range depends[name] {
				if at := slices.Index(got, d); at < 0 || at > i {
					t.Fatalf("%s comes before %s in %v", name, d, got)
				}
			}
		}
	})
}

func TestParseDepends(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, info string
		want       []string
	}{
		{"empty", "", nil},
		{"none", "license=GPL\x00depends=\x00", nil},
		{"several", "alias=x\x00depends=udp_tunnel,ip6-udp-tunnel\x00name=vxlan\x00", []string{"udp_tunnel", "ip6_udp_tunnel"}},
		{"no end", "depends=llc", []string{"llc"}},
		{"something like it", "xdepends=llc\x00softdep=pre: crc32c\x00", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, parseDepends([]byte(tt.info))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParseDepends(f *testing.F) {
	f.Add([]byte("license=GPL\x00depends=a,b\x00"))
	f.Fuzz(func(t *testing.T, info []byte) {
		for _, name := range parseDepends(info) {
			if name == "" || strings.ContainsAny(name, ",-\x00") {
				t.Errorf("name %q", name)
			}
		}
	})
}

func TestOpenModules(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "kernel/net/nf-tables.ko")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		file:                                     "not a module",
		filepath.Join(folder, "modules.builtin"): "kernel/net/ipv6/ipv6.ko\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := openModules(folder)
	if err != nil {
		t.Fatal(err)
	}
	if got.files["nf_tables"] != file || !got.builtin["ipv6"] {
		t.Errorf("files %v, built in %v", got.files, got.builtin)
	}
	if _, err := got.order([]Module{{Name: "nf_tables"}}); err == nil {
		t.Error("a file that is no module was taken for one")
	}
	if _, err := openModules(t.TempDir()); err == nil {
		t.Error("a folder without modules.builtin was taken for a kernel's")
	}
}
