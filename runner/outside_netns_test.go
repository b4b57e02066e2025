// SPDX-License-Identifier: Apache-2.0

//go:build netns

package runner_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/runner"
)

// beside starts a process that has a directory of its own over path, and is the
// node to an agent in a container.
func beside(t *testing.T, path string, plugin string) (process string) {
	t.Helper()
	c := exec.Command("/bin/sh", "-c", `mount -t tmpfs none "$1" && cp "$2" "$1/plugin" && echo ready && exec sleep 600`, "sh", path, plugin)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// The signal is sent at the death of the thread, which others must not have end.
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := c.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = c.Wait()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-ended
	})
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join("/proc", strconv.Itoa(c.Process.Pid))
}

// A plugin is found and executed where the other process is, and what it sees are
// that one's files.
func TestNetnsExecutesBeside(t *testing.T) {
	dir := t.TempDir()
	process := beside(t, dir, script(t, `cat; ls `+dir+` `))
	r, err := runner.New(runner.Options{Process: process})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "plugin")); err == nil {
		t.Fatal("the plugin is here too")
	}
	path, err := r.FindInPath("plugin", []string{dir})
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.ExecPlugin(t.Context(), path, []byte("config "), []string{"PATH=" + os.Getenv("PATH")})
	if err != nil || string(out) != "config plugin\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := r.FindInPath("none", []string{dir}); err == nil {
		t.Error("a plugin was found that is not there")
	}
}

// What the kernel calls the agent's namespaces are those of its main thread: a command
// that is executed in its container gets them.
func TestNetnsMainThreadStays(t *testing.T) {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r, err := runner.New(runner.Options{Process: beside(t, dir, script(t, ""))})
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for range 500 {
		group.Go(func() error {
			_, err := r.FindInPath("plugin", []string{dir})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if now, err := os.Readlink("/proc/self/ns/mnt"); err != nil || now != own {
		t.Errorf("the process is in %s, was in %s (error %v)", now, own, err)
	}
}

// What a plugin uses does not count against the agent's memory limit, nor its number
// of processes.
func TestNetnsExecutesOutsideOfCgroups(t *testing.T) {
	group := ownCgroup(t)
	plugin := script(t, `cat /proc/self/cgroup`)
	inside := exec.Command(os.Args[0], "-test.run", "^TestHelperExecutes$", "-test.v")
	inside.Env = append(os.Environ(), "EXECUTE="+plugin, "JOIN="+group)
	out, err := inside.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	own, plugins, found := bytes.Cut(out, []byte("then the plugin:"))
	name := filepath.Base(group)
	if !found || !bytes.Contains(own, []byte(name)) || bytes.Contains(plugins, []byte(name)) {
		t.Errorf("the agent's cgroups, then the plugin's:\n%s", out)
	}
}

// ownCgroup makes a cgroup of the test's own and returns its file of processes.
func ownCgroup(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup/memory"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	dir, err := os.MkdirTemp(root, "weir-test-") //nolint:usetesting // A cgroup is a directory of the cgroups.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			err := os.Remove(dir)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Error(err)
				return
			}
		}
	})
	return dir
}

// A node that starts brings all its pods up at once: 110 plugins of 50 MB each, for an
// agent that may have 64 MB.
func TestNetnsStormOfPlugins(t *testing.T) {
	group := ownCgroup(t)
	limit(t, group, 64<<20)
	inside := exec.Command(os.Args[0], "-test.run", "^TestHelperStorm$", "-test.v")
	inside.Env = append(os.Environ(), "EXECUTE="+script(t, "exec "+os.Args[0]+" -test.run ^TestHelperPlugin$"), "JOIN="+group)
	began := time.Now()
	if out, err := inside.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("it took %v; the agent's cgroup used at most %s bytes", time.Since(began).Round(time.Millisecond), peak(group))
}

// limit bounds the memory of a cgroup.
func limit(t *testing.T, group string, bytes int) {
	t.Helper()
	file := filepath.Join(group, "memory.limit_in_bytes")
	if filepath.Dir(group) == "/sys/fs/cgroup" {
		file = filepath.Join(group, "memory.max")
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(bytes)), 0); err != nil {
		t.Fatal(err)
	}
}

// peak is the most memory that a cgroup has used, where the kernel says so.
func peak(group string) string {
	for _, name := range []string{"memory.max_usage_in_bytes", "memory.peak"} {
		if data, err := os.ReadFile(filepath.Join(group, name)); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	return "unknown"
}

// TestHelperStorm is the agent of TestNetnsStormOfPlugins.
func TestHelperStorm(t *testing.T) {
	plugin := os.Getenv("EXECUTE")
	if plugin == "" {
		return
	}
	join(t)
	r, err := runner.New(runner.Options{Process: "/proc/" + strconv.Itoa(os.Getppid()), Most: 8})
	if err != nil {
		t.Fatal(err)
	}
	plugins := 110
	if _, err := exec.LookPath("go"); err != nil {
		plugins = 16 // in a VM, where a second is a minute
	}
	var group errgroup.Group
	for range plugins {
		group.Go(func() error {
			_, err := r.ExecPlugin(t.Context(), plugin, nil, []string{"ALLOCATE=50000000", "PATH=" + os.Getenv("PATH")})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// TestHelperPlugin is a plugin of TestNetnsStormOfPlugins.
func TestHelperPlugin(t *testing.T) {
	size, err := strconv.Atoi(os.Getenv("ALLOCATE"))
	if err != nil {
		return
	}
	held := bytes.Repeat([]byte{1}, size)
	time.Sleep(50 * time.Millisecond)
	if held[size-1] != 1 {
		t.Error("the memory is another's")
	}
}

func join(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(os.Getenv("JOIN"), "cgroup.procs"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
}

// TestHelperExecutes is the agent of TestNetnsExecutesOutsideOfCgroups.
func TestHelperExecutes(t *testing.T) {
	plugin := os.Getenv("EXECUTE")
	if plugin == "" {
		return
	}
	join(t)
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	r, err := runner.New(runner.Options{Process: "/proc/" + strconv.Itoa(os.Getppid())})
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.ExecPlugin(t.Context(), plugin, nil, []string{"PATH=" + os.Getenv("PATH")})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s\nthen the plugin:\n%s", own, out)
}

func TestNetnsProcessIsGone(t *testing.T) {
	if _, err := runner.New(runner.Options{Process: "/proc/999999999"}); err == nil || !strings.Contains(err.Error(), "/proc/999999999") {
		t.Errorf("error %v", err)
	}
}
