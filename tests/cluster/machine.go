// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// machineVariable carries a machineSpec to the first process of a machine.
const machineVariable = "WEIR_E2E_MACHINE"

// machineSpec says what a machine is made of.
type machineSpec struct {
	// Name is its host name.
	Name string
	// BootID tells one boot from another.
	BootID string
	// Root is the folder that is its disk.
	Root string
	// ReadOnly are folders of this machine that it sees, by where it sees them.
	ReadOnly map[string]string
}

// machine is what a node runs on.
type machine interface {
	// run runs a command on it and returns its standard output; what it wrote to the
	// other one is in the error.
	run(ctx context.Context, name string, args ...string) (string, error)
	// start starts a daemon that appends what it says to a file of its disk.
	start(log, name string, args ...string) (*process, error)
	// kill ends all that runs on it, and its mounts.
	kill()
}

// namespaces are a machine whose first process does nothing but reap.
type namespaces struct {
	root string
	cmd  *exec.Cmd
}

// startNamespaces boots a machine in the network namespace bound to netns.
func startNamespaces(spec machineSpec, netns string) (*namespaces, error) {
	encoded, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"init"}
	cmd.Env = []string{roleVariable + "=" + roleMachine, machineVariable + "=" + string(encoded)}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := ns.WithNetNSPath(netns, func(ns.NetNS) error { return cmd.Start() }); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	m := &namespaces{root: spec.Root, cmd: cmd}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		m.kill()
		return nil, fmt.Errorf("starting %s: its first process has died", spec.Name)
	}
	return m, nil
}

func (m *namespaces) kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

func (m *namespaces) run(ctx context.Context, name string, args ...string) (out string, err error) {
	err = m.enter(func() (err error) {
		out, err = capture(exec.CommandContext(ctx, name, args...))
		return err
	})
	return out, err
}

func (m *namespaces) start(log, name string, args ...string) (p *process, err error) {
	to, err := os.OpenFile(filepath.Join(m.root, log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	err = m.enter(func() (err error) {
		p, err = startProcess(to, name, args...)
		return err
	})
	return p, err
}

// enter calls fn on a thread inside the machine's namespaces: paths are the
// machine's, and so are the processes that fn starts.
func (m *namespaces) enter(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := m.setns(); err != nil {
			done <- fmt.Errorf("entering the namespaces: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

func (m *namespaces) setns() error {
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			f.Close()
		}
	}()
	// The mount namespace is last: /proc is another one in it.
	for _, kind := range []string{"pid", "net", "uts", "ipc", "mnt"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", m.cmd.Process.Pid, kind))
		if err != nil {
			return err
		}
		opened = append(opened, f)
	}
	// A thread that shares its root and working directory may not leave the mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	for _, f := range opened {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return nil
}

// machineMain is the first process of a machine. It does not return.
func machineMain() {
	if err := boot(); err != nil {
		fmt.Fprintln(os.Stderr, "booting:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	reap()
}

// reap waits for what was orphaned.
func reap() {
	for {
		_, err := unix.Wait4(-1, nil, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			// Nobody to wait for yet.
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func boot() error {
	var spec machineSpec
	if err := json.Unmarshal([]byte(os.Getenv(machineVariable)), &spec); err != nil {
		return fmt.Errorf("reading %s: %w", machineVariable, err)
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	if err := spec.mount(); err != nil {
		return err
	}
	if err := pivot(spec.Root); err != nil {
		return fmt.Errorf("making %s the root: %w", spec.Root, err)
	}
	// Mounts that a pod makes with bidirectional propagation reach the node.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// pivot makes a mount point the root and drops all mounts outside of it.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return os.Chdir("/")
}

// mounting is one call of mount.
type mounting struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// mount mounts all that the machine sees below its root.
func (s machineSpec) mount() error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	all := []mounting{
		{s.Root, "/", "", unix.MS_BIND, ""},
		{"proc", "/proc", "proc", safe, ""},
		{"sysfs", "/sys", "sysfs", safe, ""},
		{cgroups, cgroups, "", unix.MS_BIND | unix.MS_REC, ""},
		{"bpf", "/sys/fs/bpf", "bpf", safe, "mode=700"},
		{"/dev", "/dev", "", unix.MS_BIND, ""},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := s.mountAll(append(all, s.shared()...)); err != nil {
		return err
	}
	return s.coverSysctls()
}

// shared are the mounts of what is this machine's.
func (s machineSpec) shared() []mounting {
	var all []mounting
	for target, source := range s.ReadOnly {
		all = append(all,
			mounting{source, target, "", unix.MS_BIND, ""},
			mounting{"", target, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""})
	}
	return all
}

func (s machineSpec) mountAll(all []mounting) error {
	for _, m := range all {
		if err := unix.Mount(m.source, filepath.Join(s.Root, m.target), m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", m.source, m.target, err)
		}
	}
	return nil
}

// sysctls are those of the whole kernel that the machine sees otherwise. Most are
// what a kubelet wants and, finding it, leaves alone.
func (s machineSpec) sysctls() map[string]string {
	return map[string]string{
		"kernel/random/boot_id":     s.BootID,
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	}
}

func (s machineSpec) coverSysctls() error {
	for name, value := range s.sysctls() {
		file := filepath.Join(s.Root, "run", "sysctl-"+strings.ReplaceAll(name, "/", "-"))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, filepath.Join(s.Root, "proc/sys", name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("covering the sysctl %s: %w", name, err)
		}
	}
	return nil
}

// makeDisk makes what a machine's root holds before its first boot.
func (s machineSpec) makeDisk() error {
	for _, dir := range []string{
		"dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr",
		"var/lib", "var/log", "var/tmp",
	} {
		if err := os.MkdirAll(filepath.Join(s.Root, dir), 0o755); err != nil {
			return err
		}
	}
	for target := range s.ReadOnly {
		if err := os.MkdirAll(filepath.Join(s.Root, target), 0o755); err != nil {
			return err
		}
	}
	links := map[string]string{"var/run": "/run", "etc/mtab": "/proc/self/mounts"}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		links[dir] = "usr/" + dir
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(s.Root, name)); err != nil {
			return err
		}
	}
	return s.makeEtc()
}

// makeEtc copies what programs of this machine look for in /etc.
func (s machineSpec) makeEtc() error {
	etc := filepath.Join(s.Root, "etc")
	for _, name := range []string{"passwd", "group", "nsswitch.conf", "ld.so.cache", "protocols", "services"} {
		data, err := os.ReadFile(filepath.Join("/etc", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(etc, name), data, 0o644); err != nil {
			return err
		}
	}
	// Commands such as iptables are links to there.
	if err := os.CopyFS(filepath.Join(etc, "alternatives"), os.DirFS("/etc/alternatives")); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"hostname": s.Name + "\n",
		"hosts":    "127.0.0.1 localhost " + s.Name + "\n::1 localhost\n",
		// Kubernetes tells machines apart by it.
		"machine-id":  fmt.Sprintf("%x\n", sha256.Sum256([]byte(s.Name)))[:32] + "\n",
		"resolv.conf": "",
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return os.Symlink("../usr/lib/os-release", filepath.Join(etc, "os-release"))
}
