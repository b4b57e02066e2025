// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal, and what was written to it.
type terminal struct {
	tb             testing.TB
	keyboard, line *os.File

	mu     sync.Mutex
	screen []byte
}

func newTerminal(tb testing.TB, columns, rows uint16) *terminal {
	tb.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		tb.Fatal(err)
	}
	line, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	t := &terminal{tb: tb, keyboard: keyboard, line: line}
	t.resize(columns, rows)
	go t.follow()
	tb.Cleanup(func() { _, _ = line.Close(), keyboard.Close() })
	return t
}

func (t *terminal) follow() {
	buffer := make([]byte, 4096)
	for {
		n, err := t.keyboard.Read(buffer)
		if err != nil {
			return
		}
		t.mu.Lock()
		t.screen = append(t.screen, buffer[:n]...)
		t.mu.Unlock()
	}
}

func (t *terminal) resize(columns, rows uint16) {
	t.tb.Helper()
	if err := unix.IoctlSetWinsize(int(t.line.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.tb.Fatal(err)
	}
}

func (t *terminal) settings() *unix.Termios {
	t.tb.Helper()
	settings, err := unix.IoctlGetTermios(int(t.line.Fd()), unix.TCGETS)
	if err != nil {
		t.tb.Fatal(err)
	}
	return settings
}

// written is all that was written.
func (t *terminal) written() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.screen)
}

// lines are those of the last whole screen.
func (t *terminal) lines() []string {
	screens := strings.Split(string(t.written()), "\x1b[H")
	if len(screens) < 3 {
		return nil
	}
	screen := strings.NewReplacer("\x1b[K", "", "\x1b[J", "", "\x1b[1m", "", "\x1b[31m", "", "\x1b[33m", "", "\x1b[0m", "").Replace(screens[len(screens)-2])
	return strings.Split(screen, "\r\n")
}

func (t *terminal) press(keys string) {
	t.tb.Helper()
	if _, err := t.keyboard.WriteString(keys); err != nil {
		t.tb.Fatal(err)
	}
}

// show starts a command on the terminal.
func (t *terminal) show(n *Node, args ...string) *exec.Cmd {
	t.tb.Helper()
	args = append(args, "--socket", n.socket(), "--state-dir", n.path("state"), "--bpf-dir", n.bpfDir)
	cmd := exec.Command(n.bin.ctl, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.line, t.line, t.line
	cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.tb.Fatal(err)
	}
	return cmd
}

// top follows traffic, keys, the size of the terminal and the agent's end, and leaves the
// terminal as it was however it ends.
func TestNetnsTop(t *testing.T) {
	n := newNode(t)
	n.Network("lan", static())
	pod := n.Pod("web", selection)
	n.mustAdd(pod)
	n.awaitHook(pod)
	ends := map[string]func(*terminal, *exec.Cmd){
		"q":            func(term *terminal, _ *exec.Cmd) { term.press("q") },
		"control-C":    func(term *terminal, _ *exec.Cmd) { term.press("\x03") },
		"a signal":     func(_ *terminal, cmd *exec.Cmd) { _ = cmd.Process.Signal(unix.SIGTERM) },
		"a hangup":     func(_ *terminal, cmd *exec.Cmd) { _ = cmd.Process.Signal(unix.SIGHUP) },
		"an interrupt": func(_ *terminal, cmd *exec.Cmd) { _ = cmd.Process.Signal(unix.SIGINT) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			n.within(t)
			term := newTerminal(t, 80, 24)
			before := term.settings()
			cmd := term.show(n, "top", "-d", "200ms")
			n.await("rates", func() bool { return contains(term.lines(), n.namespace+"/web") })
			if cmp.Equal(before, term.settings()) {
				t.Error("keys need a line's end")
			}
			end(term, cmd)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(before, term.settings()); diff != "" {
				t.Errorf("the terminal is not as it was:\n%s", diff)
			}
			n.await("the screen of before", func() bool { return bytes.HasSuffix(term.written(), []byte("\x1b[?25h\x1b[?1049l")) })
			if times := bytes.Count(term.written(), []byte("\x1b[?1049h")); times != 1 {
				t.Errorf("another screen was entered %d times", times)
			}
		})
	}
	t.Run("live", func(t *testing.T) {
		n.within(t)
		n.checkLive(t)
	})
	t.Run("a pipe", func(t *testing.T) {
		n.within(t)
		code, out, stderr := n.weirctl("top", "--once", "-d", "200ms")
		if code != 0 || stderr != "" && n.agent != nil || !strings.Contains(out, n.namespace+"/web") || strings.Contains(out, "\x1b") {
			t.Errorf("exit code %d, %q%s", code, out, stderr)
		}
	})
}

func contains(lines []string, text string) bool {
	return strings.Contains(strings.Join(lines, "\n"), text)
}

func (n *Node) checkLive(t *testing.T) {
	term := newTerminal(t, 80, 24)
	cmd := term.show(n, "top", "-d", "200ms")
	n.await("a first screen", func() bool { return contains(term.lines(), "sorted by rx") })
	n.await("traffic", func() bool {
		n.ping(n.outside, podAddress, 20)
		return !contains(term.lines(), "     0       0       0       0")
	})
	term.press("db")
	n.await("the keys", func() bool { return contains(term.lines(), "by network, sorted by drops") })
	term.press("b")
	term.resize(60, 10)
	if err := cmd.Process.Signal(unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	n.await("another size", func() bool {
		return contains(term.lines(), "POD") && contains(term.lines(), "ATT") && widest(term.lines()) <= 60
	})
	n.Kill()
	n.await("the agent's end", func() bool { return contains(term.lines(), "no agent answers") && contains(term.lines(), "web") })
	term.press("q")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func widest(lines []string) int {
	most := 0
	for _, line := range lines {
		most = max(most, utf8.RuneCountInString(line))
	}
	return most
}

// A reader that goes away ends a tool that would go on, without a word.
func TestNetnsReaderGoesAway(t *testing.T) {
	n := newNode(t)
	for _, args := range []string{"get --watch --interval 100ms", "top -d 100ms", "get --watch --interval 100ms -o json"} {
		cmd := exec.Command(n.bin.ctl, append(strings.Fields(args), "--socket", n.socket())...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 10)); err != nil {
			t.Error(err)
		}
		_ = out.Close()
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGPIPE || stderr.Len() > 0 {
			t.Errorf("%s: %v, %s", args, err, &stderr)
		}
	}
}
