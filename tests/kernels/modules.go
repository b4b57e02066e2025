// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// module is one that the tests may need.
type module struct {
	name    string
	options string
	// optional ones may be missing from a kernel.
	optional bool
}

func modules() []module {
	return []module{
		{name: "crc32c_generic", optional: true}, // asked for by alias, by libcrc32c
		{name: "af_packet", optional: true},
		{name: "ipv6", optional: true},
		{name: "virtio_pci", optional: true}, // the network cards
		{name: "virtio_net"},
		{name: "vmxnet3"},
		{name: "veth"},
		{name: "bridge"},
		{name: "macvlan"},
		{name: "ipvlan"},
		// The interfaces which some modules bring along are not what a test expects.
		{name: "dummy", options: "numdummies=0"},
		{name: "ifb", options: "numifbs=0"},
		{name: "8021q"},
		{name: "vxlan"},
		{name: "tun"},
		{name: "sch_ingress"},
		{name: "sch_fq"},
		{name: "sch_htb"},
		{name: "sch_tbf", optional: true},
		{name: "sch_netem", optional: true},
		{name: "cls_bpf"},
		{name: "cls_matchall"},
		{name: "cls_u32", optional: true},
		{name: "act_bpf"},
		{name: "act_gact"},
		{name: "act_mirred"},
		{name: "act_police", optional: true},
		{name: "act_skbedit", optional: true},
		{name: "act_vlan", optional: true},
		{name: "nf_conntrack"},
		{name: "nf_tables"},
		{name: "nft_ct", optional: true},
		{name: "nft_chain_nat", optional: true},
		{name: "nft_masq", optional: true},
		{name: "sctp", optional: true},
		{name: "macvtap", optional: true},
		{name: "netkit", optional: true}, // since 6.7
	}
}

// loadable is a module in its place in the order of loading.
type loadable struct{ name, file, options string }

// moduleTree is what a kernel has below lib/modules. The packages carry no
// modules.dep, which is made on installation: the modules themselves say what
// they depend on.
type moduleTree struct {
	files   map[string]string
	builtin map[string]bool
	depends func(file string) ([]string, error)
}

func openModules(folder string) (*moduleTree, error) {
	t := &moduleTree{files: map[string]string{}, builtin: map[string]bool{}, depends: dependencies}
	err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".ko") {
			t.files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the kernel's modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(folder, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("listing what is built into the kernel: %w", err)
	}
	for line := range strings.Lines(string(builtin)) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return t, nil
}

// moduleName is the name by which others depend on the module in the file.
func moduleName(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// order returns what to load, each module after those that it depends on. It
// names every module that is missing.
func (t *moduleTree) order(wanted []module) ([]loadable, error) {
	o := ordering{tree: t, seen: map[string]bool{}}
	var errs []error
	for _, m := range wanted {
		if t.files[m.name] == "" && m.optional {
			continue
		}
		errs = append(errs, o.add(m.name, m.options))
	}
	return o.result, errors.Join(errs...)
}

type ordering struct {
	tree   *moduleTree
	seen   map[string]bool
	result []loadable
}

func (o *ordering) add(name, options string) error {
	if o.seen[name] || o.tree.builtin[name] {
		return nil
	}
	o.seen[name] = true
	file := o.tree.files[name]
	if file == "" {
		return fmt.Errorf("the kernel has no module %s", name)
	}
	depends, err := o.tree.depends(file)
	if err != nil {
		return fmt.Errorf("reading what module %s depends on: %w", name, err)
	}
	for _, d := range depends {
		if err := o.add(d, ""); err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	o.result = append(o.result, loadable{name, file, options})
	return nil
}

func dependencies(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo in it")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	return parseDepends(info), nil
}

// parseDepends reads a .modinfo section: strings that end with NUL.
func parseDepends(info []byte) []string {
	var depends []string
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		list, ok := bytes.CutPrefix(entry, []byte("depends="))
		if !ok {
			continue
		}
		for name := range strings.SplitSeq(string(list), ",") {
			if name != "" {
				depends = append(depends, moduleName(name))
			}
		}
	}
	return depends
}
