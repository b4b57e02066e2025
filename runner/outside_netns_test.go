// SPDX-License-Identifier: Apache-2.0

//go:build netns

package runner_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
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

// TestHelperExecutes is the agent of TestNetnsExecutesOutsideOfCgroups.
func TestHelperExecutes(t *testing.T) {
	plugin := os.Getenv("EXECUTE")
	if plugin == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(os.Getenv("JOIN"), "cgroup.procs"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
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
