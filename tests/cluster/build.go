// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// checkTools looks for what Debian has to provide.
func checkTools() error {
	var missing []error
	for file, pkg := range map[string]string{
		"/usr/bin/etcd": "etcd-server", "/usr/bin/containerd": "containerd", "/usr/sbin/runc": "runc",
		"/usr/bin/buildah": "buildah", busybox: "busybox-static",
	} {
		if _, err := os.Stat(file); err != nil {
			missing = append(missing, fmt.Errorf("%s is missing (Debian package %s)", file, pkg))
		}
	}
	return errors.Join(missing...)
}

const kubernetesModule = "k8s.io/kubernetes"

// builds are the folders of what was compiled.
type builds struct {
	// repository is the root of weir's module.
	repository string
	// kubernetes has the programs of Kubernetes.
	kubernetes string
	// plugins has the reference plugins.
	plugins string
}

// build compiles what the cluster runs; plugins are new in dir each time, which
// Go's own cache makes quick.
func build(ctx context.Context, dir string) (builds, error) {
	mod, err := output(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}", "github.com/weir-cni/weir")
	if err != nil {
		return builds{}, err
	}
	b := builds{repository: strings.TrimSpace(mod), plugins: filepath.Join(dir, "plugins")}
	if b.kubernetes, err = buildKubernetes(ctx, b.repository); err != nil {
		return builds{}, err
	}
	const plugins = "github.com/containernetworking/plugins/plugins/"
	return b, goBuild(ctx, b.repository, b.plugins,
		plugins+"main/bridge", plugins+"main/macvlan", plugins+"main/ipvlan", plugins+"main/host-device",
		plugins+"main/loopback", plugins+"ipam/host-local", plugins+"ipam/static", plugins+"meta/tuning")
}

// goBuild compiles static binaries into a folder.
func goBuild(ctx context.Context, dir, into string, args ...string) error {
	args = append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", into + "/"}, args...)
	_, err := output(ctx, dir, "go", args...)
	return err
}

// buildKubernetes returns the folder of the programs of the version that is asked
// for, and compiles them unless that was done.
func buildKubernetes(ctx context.Context, repository string) (string, error) {
	source := filepath.Join(repository, "tests/cluster/kubernetes")
	version, err := output(ctx, source, "go", "list", "-m", "-f", "{{.Version}}", kubernetesModule)
	if err != nil {
		return "", err
	}
	version = strings.TrimSpace(version)
	cache := filepath.Join(repository, "build/kubernetes")
	folder := filepath.Join(cache, version)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	// A folder is complete, because it gets its name last.
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		return folder, err
	}
	unfinished := folder + ".unfinished"
	if err := compileKubernetes(ctx, source, version, unfinished); err != nil {
		return "", err
	}
	return folder, os.Rename(unfinished, folder)
}

// lock makes a second run wait for the first one's compiler.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening a lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return func() { f.Close() }, nil
}

func compileKubernetes(ctx context.Context, source, version, into string) error {
	const tags = "providerless"
	all, err := output(ctx, source, "go", "list", "-deps", "-tags", tags, "tool")
	if err != nil {
		return err
	}
	progress := &lineCounter{of: strings.Count(all, "\n")}
	defer progress.report("compiling Kubernetes " + version)()
	minor := strings.Split(version, ".")[1]
	const stamp = " -X k8s.io/component-base/version."
	cmd := command(ctx, source, "go", "build", "-v", "-tags", tags,
		"-ldflags", "-s -w"+stamp+"gitVersion="+version+stamp+"gitMajor=1"+stamp+"gitMinor="+minor,
		"-o", into+"/", "tool")
	cmd.Stderr = progress
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compiling Kubernetes %s: %w: %s", version, err, tail(progress.said.Bytes()))
	}
	return nil
}

// lineCounter counts what `go build -v` says, a line a package.
type lineCounter struct {
	of    int
	lines atomic.Int64
	said  bytes.Buffer
}

// Write keeps the text, which is an error's when the build fails.
func (l *lineCounter) Write(p []byte) (int, error) {
	l.lines.Add(int64(bytes.Count(p, []byte("\n"))))
	return l.said.Write(p)
}

// report says now and then how far it is, until the function that it returns is called.
func (l *lineCounter) report(what string) (stop func()) {
	fmt.Fprintf(os.Stderr, "%s: once, for some minutes\n", what)
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(os.Stderr, "%s: %d of at most %d packages\n", what, l.lines.Load(), l.of)
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}

// command is one of this machine; what it compiles is static.
func command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return cmd
}

// output runs a command of this machine and returns what it writes.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	return capture(command(ctx, dir, name, args...))
}

// capture runs a command and returns its standard output; what it wrote to the
// other one is the error's.
func capture(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
