// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weir-cni/weir/tests/kernels/guest"
)

//go:embed init.sh
var initScript []byte

// settings is what the first process of the VM is told.
type settings struct {
	kernel  string
	token   string
	run     string
	timeout time.Duration // of one package
	shell   bool
}

// script is settings as the shell reads them. WEIR_KERNEL is for the tests.
func (s settings) script() string {
	mode := "test"
	if s.shell {
		mode = "shell"
	}
	return strings.Join([]string{
		"export WEIR_KERNEL=" + quote(s.kernel),
		"TOKEN=" + quote(s.token),
		"RUN=" + quote(s.run),
		"TIMEOUT=" + quote(s.timeout.String()),
		"MODE=" + mode,
	}, "\n") + "\n"
}

func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// initramfs is a tree of folders and of symbolic links to files elsewhere, that
// becomes an archive of the files themselves.
type initramfs struct{ root string }

// busybox finds one that needs no libraries, as there are none in the VM.
func busybox() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	dynamic := func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }
	if slices.ContainsFunc(f.Progs, dynamic) {
		return "", fmt.Errorf("%s is not static: install the Debian package busybox-static", path)
	}
	return path, nil
}

// pack writes the initramfs of one kernel to the file archive, by way of the
// folder root.
func pack(ctx context.Context, k guest.Kernel, s settings, packages []testPackage, with []extra, root, archive string) error {
	t := initramfs{root}
	static, err := busybox()
	if err != nil {
		return err
	}
	for _, err := range []error{
		t.link(static, "/bin/busybox"),
		t.write("/init", initScript, 0o755),
		t.write("/weir/settings", []byte(s.script()), 0o600),
		t.modules(k),
		t.tests(packages),
		t.extras(with),
	} {
		if err != nil {
			return fmt.Errorf("filling the initramfs of %s: %w", k.Version, err)
		}
	}
	return t.archive(ctx, archive)
}

func (t initramfs) modules(k guest.Kernel) error {
	order, err := k.Order(modules())
	if err != nil {
		return err
	}
	var list bytes.Buffer
	for _, m := range order {
		if err := t.link(m.File, "/weir/modules/"+m.Name+".ko"); err != nil {
			return err
		}
		fmt.Fprintln(&list, m.Name+".ko", m.Options)
	}
	return t.write("/weir/modules/order", list.Bytes(), 0o644)
}

// tests puts the binaries and their data where the tests expect them.
func (t initramfs) tests(packages []testPackage) error {
	var list bytes.Buffer
	for _, p := range packages {
		binary := "/weir/bin/" + filepath.Base(p.binary)
		folder := filepath.Join("/weir/src", p.inside)
		fmt.Fprintln(&list, binary, folder)
		if err := errors.Join(t.link(p.binary, binary), os.MkdirAll(t.root+folder, 0o755)); err != nil {
			return err
		}
		data := filepath.Join(p.folder, "testdata")
		if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := t.add(extra{data, filepath.Join(folder, "testdata")}); err != nil {
			return err
		}
	}
	return t.write("/weir/tests", list.Bytes(), 0o644)
}

func (t initramfs) extras(with []extra) error {
	for _, e := range with {
		if err := t.add(e); err != nil {
			return err
		}
	}
	return nil
}

// add links a file, or each file of a folder.
func (t initramfs) add(e extra) error {
	source, err := filepath.EvalSymlinks(e.path)
	if err != nil {
		return err
	}
	return filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := filepath.Join(e.destination, strings.TrimPrefix(path, source))
		if entry.IsDir() {
			return os.MkdirAll(t.root+inside, 0o755)
		}
		return t.link(path, inside)
	})
}

func (t initramfs) link(file, inside string) error {
	absolute, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(t.root+inside), 0o755); err != nil {
		return err
	}
	return os.Symlink(absolute, t.root+inside)
}

func (t initramfs) write(inside string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(t.root+inside), 0o755); err != nil {
		return err
	}
	return os.WriteFile(t.root+inside, content, mode)
}

// archive leaves it uncompressed: unpacking is emulated, reading is not.
func (t initramfs) archive(ctx context.Context, path string) error {
	var names bytes.Buffer
	err := filepath.WalkDir(t.root, func(path string, _ fs.DirEntry, err error) error {
		names.WriteString("." + strings.TrimPrefix(path, t.root) + "\x00")
		return err
	})
	if err != nil {
		return fmt.Errorf("listing the initramfs: %w", err)
	}
	cmd := exec.CommandContext(ctx, "cpio", "--create", "--null", "--format=newc", "--dereference",
		"--owner=+0:+0", "--quiet", "--io-size=1048576", "--file="+path)
	cmd.Dir = t.root
	cmd.Stdin = &names
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("writing the initramfs: %w: %s", err, text)
	}
	return nil
}
