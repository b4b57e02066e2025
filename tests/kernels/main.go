// SPDX-License-Identifier: Apache-2.0

// Kernels runs the privileged tests of this module on kernels other than the
// machine's own: it takes Debian's cloud kernels with apt-get, compiles the
// test binaries, boots both in QEMU and judges what comes back.
//
//	go run ./tests/kernels [flags] [packages]
//
// It needs no root. Run it with -h for its flags. The exit status is 1 when a
// test fails, is skipped or does not run, and 2 when the command line is wrong.
//
// Emulation is QEMU's own (TCG), so it works in a machine that is virtual
// itself. Inside the VM everything runs as root, from an initramfs: a static
// busybox, the kernel modules that the tests need, and each test binary in the
// directory of its package with the package's testdata.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/weir-cni/weir/tests/kernels/guest"
)

const usage = `usage: go run ./tests/kernels [flags] [packages]

Runs the tests behind the build tag netns on other kernels, in QEMU. Without
packages, those of every package of this module that has any that match.

Each kernel is downloaded once. To take the newest again, remove its folder from
the cache. What the VMs wrote is kept in build/kernels.

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// command returns the exit status.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "kernels:", err)
		return 2
	}
	if err := execute(ctx, o, &printer{to: stdout}); err != nil {
		fmt.Fprintln(stderr, "kernels:", err)
		return 1
	}
	return 0
}

// options are the command line.
type options struct {
	releases []guest.Release
	packages []string
	with     []extra
	run      string
	match    *regexp.Regexp // what run says of tests, not of their subtests
	cache    string
	timeout  time.Duration
	verbose  bool
	shell    bool
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	set := flag.NewFlagSet("kernels", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() {
		fmt.Fprint(stderr, usage)
		set.PrintDefaults()
	}
	kernels := set.String("kernels", "6.1,6.12", "the `versions` to run on, of 5.10, 6.1 and 6.12")
	set.StringVar(&o.run, "run", "^Test(Netns|Kernels)", "run only the tests that match this `regexp`")
	set.StringVar(&o.cache, "cache", "", "`folder` of downloaded kernels (default weir/kernels in $XDG_CACHE_HOME or ~/.cache)")
	set.DurationVar(&o.timeout, "timeout", 15*time.Minute, "what each VM may take; one package may take half of it")
	set.BoolVar(&o.verbose, "v", false, "print everything that the tests print, as it comes")
	set.BoolVar(&o.shell, "shell", false, "boot one kernel to a shell; its folder /weir says where the tests are; ends with `exit`")
	set.Func("with", "also put the file or folder `path=destination` into the VM; repeatable", func(value string) error {
		e, err := parseExtra(value)
		o.with = append(o.with, e)
		return err
	})
	if err := set.Parse(args); err != nil {
		return o, err
	}
	o.packages = set.Args()
	return o, o.complete(*kernels)
}

func (o *options) complete(kernels string) error {
	for version := range strings.SplitSeq(kernels, ",") {
		r, err := guest.ReleaseOf(strings.TrimSpace(version))
		if err != nil {
			return err
		}
		o.releases = append(o.releases, r)
	}
	top, _, _ := strings.Cut(o.run, "/")
	var err error
	o.match, err = regexp.Compile(top)
	switch {
	case err != nil:
		return fmt.Errorf("-run: %w", err)
	case o.timeout < time.Second:
		return fmt.Errorf("-timeout %v is less than a second", o.timeout)
	case o.shell && len(o.releases) > 1:
		return errors.New("-shell needs -kernels with one version")
	case o.cache != "":
		return nil
	}
	if o.cache, err = guest.Cache(); err != nil {
		return fmt.Errorf("finding the cache folder, which -cache can name: %w", err)
	}
	return nil
}

// extra is a file or a folder of this machine that the VM has too.
type extra struct{ path, destination string }

func parseExtra(value string) (extra, error) {
	path, destination, ok := strings.Cut(value, "=")
	if !ok || path == "" || !filepath.IsAbs(destination) || filepath.Clean(destination) == "/" {
		return extra{}, fmt.Errorf("%q is not path=/destination", value)
	}
	if _, err := os.Stat(path); err != nil {
		return extra{}, err
	}
	return extra{path, filepath.Clean(destination)}, nil
}

// tools are the commands that this one executes, and Debian's packages of them.
func tools() []struct{ command, pkg string } {
	return []struct{ command, pkg string }{
		{"go", "golang-go, or Go's own archive"},
		{"apt-get", "apt"},
		{"dpkg", "dpkg"},
		{"xz", "xz-utils"},
		{"cpio", "cpio"},
		{"busybox", "busybox-static"},
		{guest.QEMU, "qemu-system-x86"},
	}
}

// checkTools names everything that is missing at once.
func checkTools(look func(string) (string, error)) error {
	var missing []error
	for _, tool := range tools() {
		if _, err := look(tool.command); err != nil {
			missing = append(missing, fmt.Errorf("%s is missing (Debian package %s)", tool.command, tool.pkg))
		}
	}
	return errors.Join(missing...)
}
