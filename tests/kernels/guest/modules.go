// SPDX-License-Identifier: Apache-2.0

package guest

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

// Module is one to load.
type Module struct {
	// Name has underscores where the file's may have hyphens.
	Name string
	// Options are as insmod takes them.
	Options string
	// Optional ones may be missing from a kernel.
	Optional bool
}

// Loadable is a module in its place in the order of loading.
type Loadable struct{ Name, File, Options string }

// Order returns what to load of the kernel's modules, each after those that it
// depends on. It names every module that is missing.
func (k Kernel) Order(wanted []Module) ([]Loadable, error) {
	tree, err := openModules(k.Modules)
	if err != nil {
		return nil, err
	}
	return tree.order(wanted)
}

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

func (t *moduleTree) order(wanted []Module) ([]Loadable, error) {
	o := ordering{tree: t, seen: map[string]bool{}}
	var errs []error
	for _, m := range wanted {
		if t.files[m.Name] == "" && m.Optional {
			continue
		}
		errs = append(errs, o.add(m.Name, m.Options))
	}
	return o.result, errors.Join(errs...)
}

type ordering struct {
	tree   *moduleTree
	seen   map[string]bool
	result []Loadable
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
	o.result = append(o.result, Loadable{name, file, options})
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
