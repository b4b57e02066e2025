// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Environment of the executions of the test binary.
const (
	// roleVariable tells an execution what it is: empty for the one that `go test`
	// started.
	roleVariable = "WEIR_E2E_ROLE"
	// runVariable is the name of the run.
	runVariable = "WEIR_E2E_RUN"

	roleTests   = "tests"
	roleMachine = "machine"
)

// mainThread is kept by the main goroutine, which alone runs while variables are
// initialized. A thread that has entered a namespace for good ends with its
// goroutine, but this one would stay there and keep the namespace alive.
var mainThread = keepThread()

func keepThread() int {
	runtime.LockOSThread()
	return unix.Gettid()
}

// Suite is the one cluster that the tests of a package share. Those tests do not
// run in parallel.
type Suite struct {
	// Options are the cluster's.
	Options Options

	once    sync.Once
	tb      *lasting
	cluster *Cluster
}

// Main is all of a package's TestMain: it runs the tests and does not return.
func (s *Suite) Main(m *testing.M) {
	if unix.Gettid() != mainThread {
		fmt.Fprintln(os.Stderr, "(*cluster.Suite).Main has to be called by TestMain itself")
		os.Exit(2)
	}
	switch role := os.Getenv(roleVariable); role {
	case "":
		os.Exit(supervise())
	case roleMachine:
		machineMain()
	case roleTests:
		os.Exit(s.run(m))
	default:
		fmt.Fprintf(os.Stderr, "%s=%s: no such role\n", roleVariable, role)
		os.Exit(2)
	}
}

// Cluster returns the shared cluster, which the first caller starts. What it
// finds until tb ends is a failure of tb, which may be a subtest.
func (s *Suite) Cluster(tb testing.TB) *Cluster {
	tb.Helper()
	s.once.Do(func() {
		s.tb = &lasting{TB: tb}
		lastingly(s.tb, func() { s.cluster = Start(s.tb, s.Options) })
	})
	if s.cluster == nil {
		tb.Fatal("there is no cluster: the first test that asked for it says why")
	}
	before := s.tb.TB
	s.tb.TB = tb
	tb.Cleanup(func() { s.tb.TB = before })
	return s.cluster
}

// run runs the tests, in namespaces that end with this process.
func (s *Suite) run(m *testing.M) int {
	if err := enterOwnMounts(); err != nil {
		fmt.Fprintln(os.Stderr, "making the mounts of the tests private:", err)
		return 2
	}
	code := m.Run()
	if s.tb != nil && !s.tb.clean() {
		return max(code, 1)
	}
	return code
}

// enterOwnMounts makes /proc show the PID namespace of this process, to this
// mount namespace alone.
func enterOwnMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// supervise runs the tests as the first process of a PID namespace, and removes
// what the kernel does not when that process has ended. It returns the exit
// status.
func supervise() int {
	sweep()
	dir, err := os.MkdirTemp("", runPrefix(os.Getpid()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "making the folder of the run:", err)
		return 2
	}
	code, err := superviseIn(dir)
	if err := errors.Join(err, removeRun(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

func superviseIn(dir string) (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roleVariable+"="+roleTests, runVariable+"="+runName(dir), "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		// It is about the thread that starts the child, which is the main one.
		Pdeathsig: unix.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("running the tests in namespaces of their own (root is needed): %w", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("the tests: %w", err)
	}
	return 0, nil
}

// lasting is the TB of what outlives a test: what fails is the current test. What
// is made under lastingly is cleaned up after the last test, the rest after the
// current one.
type lasting struct {
	testing.TB
	keep     bool
	cleanups []func()
	// ended is set when there is no current test any more, failed when a cleanup has.
	ended, failed bool
}

// lastingly calls fn, which makes what is to live as long as tb.
func lastingly(tb testing.TB, fn func()) {
	if l, ok := tb.(*lasting); ok {
		before := l.keep
		l.keep = true
		defer func() { l.keep = before }()
	}
	fn()
}

// Cleanup overrides that of the current test.
func (l *lasting) Cleanup(f func()) {
	if !l.keep {
		l.TB.Cleanup(f)
		return
	}
	l.cleanups = append(l.cleanups, f)
}

// TempDir overrides that of the current test. The folder goes with the run's.
func (l *lasting) TempDir() string {
	l.Helper()
	if !l.keep {
		return l.TB.TempDir()
	}
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		l.Fatal(err)
	}
	return dir
}

// Errorf overrides that of the current test, for the cleanups: there is none then.
func (l *lasting) Errorf(format string, args ...any) {
	l.Helper()
	if !l.ended {
		l.TB.Errorf(format, args...)
		return
	}
	l.failed = true
	fmt.Fprintf(os.Stderr, "after the tests: "+format+"\n", args...)
}

// clean runs the cleanups, the last first, and says whether they went well.
func (l *lasting) clean() bool {
	l.ended = true
	for _, f := range slices.Backward(l.cleanups) {
		f()
	}
	return !l.failed
}
