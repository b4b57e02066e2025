// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/tests/lan"
)

const metricsAddress = "127.0.0.1:9842"

// startPatience is how long an agent may take to serve; a kernel that is emulated
// is slow.
const startPatience = 30 * time.Second

// process is a running agent.
type process struct {
	pid  int
	done chan struct{} // closed when it has ended
}

// Start starts an agent in the node's namespace and returns once it serves.
func (n *Node) Start() {
	n.tb.Helper()
	if n.agent != nil {
		n.tb.Fatal("the agent runs already")
	}
	p, err := launch(n.machine, n.command(), n.confine)
	if err != nil {
		n.tb.Fatalf("starting the agent: %v", err)
	}
	n.agent = p
	n.waitUntilServing()
}

func (n *Node) command() *exec.Cmd {
	cmd := exec.Command(n.bin.agent, "--standalone", "--manifests", n.path("manifests"), "--log-level", "debug",
		"--socket", n.socket(), "--state-dir", n.path("state"), "--bpf-dir", n.bpfDir,
		"--cni-bin-dir", n.binDir, "--metrics-address", metricsAddress)
	cmd.Args = append(cmd.Args, n.flags...)
	// The race detector's runtime would wait a second at exit.
	cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), n.environment...)
	cmd.Stderr = n.log
	cmd.Stdout = n.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// launch starts a command in a host's namespace, on a thread of its own that
// lives as long as the command does: the signal at the parent's death is sent
// when the thread dies that started it. confine may take rights from that thread,
// and so from the command.
func launch(host *lan.Host, cmd *exec.Cmd, confine func() error) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		host.Do(func() error {
			err := startConfined(cmd, confine)
			if err == nil {
				p.pid = cmd.Process.Pid
			}
			started <- err
			if err == nil {
				_ = cmd.Wait()
			}
			return nil
		})
	}()
	return p, <-started
}

func startConfined(cmd *exec.Cmd, confine func() error) error {
	if confine == nil {
		return cmd.Start()
	}
	if err := confine(); err != nil {
		return err
	}
	return cmd.Start()
}

func (n *Node) waitUntilServing() {
	n.tb.Helper()
	for began := time.Now(); !n.serves(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-n.agent.done:
			n.agent = nil
			n.tb.Fatal("the agent has ended")
		default:
		}
		if time.Since(began) > startPatience {
			n.tb.Fatalf("the agent does not serve within %s", startPatience)
		}
	}
}

func (n *Node) serves() bool {
	conn, err := net.Dial("unix", n.socket())
	if err != nil {
		return false
	}
	defer conn.Close()
	return healthy(conn)
}

// healthy asks for the agent's health on an open connection.
func healthy(conn net.Conn) bool {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	resp, err := client.Get("http://weir" + api.HealthPath)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Kill ends the agent with a signal that it cannot catch.
func (n *Node) Kill() { n.end(unix.SIGKILL) }

// Stop asks the agent to end.
func (n *Node) Stop() { n.end(unix.SIGTERM) }

func (n *Node) end(signal unix.Signal) {
	n.tb.Helper()
	if n.agent == nil {
		return
	}
	_ = unix.Kill(n.agent.pid, signal)
	select {
	case <-n.agent.done:
	case <-time.After(startPatience):
		n.tb.Errorf("the agent did not end within %s of %s", startPatience, signal)
		_ = unix.Kill(n.agent.pid, unix.SIGKILL)
		<-n.agent.done
	}
	n.agent = nil
}

// Restart kills the agent and starts another with the same directories.
func (n *Node) Restart() {
	n.tb.Helper()
	n.Kill()
	n.Start()
}

// readLog is what the agents of this node have said.
func (n *Node) readLog() []byte {
	data, err := os.ReadFile(filepath.Join(n.dir, "agent.log"))
	if err != nil {
		n.tb.Error(err)
	}
	return data
}

// judgeLog fails a test whose agent panicked or met a data race, and shows what
// the agent said to a test that has failed.
func (n *Node) judgeLog() {
	log := n.readLog()
	for _, sign := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if bytes.Contains(log, []byte(sign)) {
			n.tb.Errorf("the agent's log holds %q", sign)
		}
	}
	if n.tb.Failed() {
		n.tb.Logf("the agent's log:\n%s", tail(log, 20000))
	}
}

func tail(text []byte, most int) []byte {
	if len(text) <= most {
		return text
	}
	return append([]byte(fmt.Sprintf("(%d bytes before)\n", len(text)-most)), text[len(text)-most:]...)
}

func cleanUp(tb testing.TB, dir string) {
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
}
