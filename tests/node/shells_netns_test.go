// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Each shell completes the name of a live pod, with an agent and without, as weirctl and
// as a plugin of kubectl's.
func TestShellsCompleteLiveNames(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
	pod := n.Pod("completed", "lan")
	n.mustAdd(pod)
	bin := t.TempDir()
	for _, name := range []string{"weirctl", "kubectl-weir"} {
		if err := os.Symlink(n.bin.ctl, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	shells := map[string]struct{ command, source string }{
		"bash": {"bash --noprofile --norc -i", "source /usr/share/bash-completion/bash_completion; source <(weirctl completion bash)"},
		"zsh":  {"zsh -f -i", "autoload -U compinit; compinit -D; source <(weirctl completion zsh)"},
		"fish": {"fish --no-config -i", "weirctl completion fish | source"},
	}
	check := func(t *testing.T) {
		for name, shell := range shells {
			t.Run(name, func(t *testing.T) {
				n.within(t)
				term := newTerminal(t, 500, 24) // nothing is wrapped
				term.start(bin, shell.command)
				term.press(shell.source + "\n")
				term.press("echo rea''dy\n")
				n.await("the shell", func() bool { return strings.Contains(string(term.written()), "ready") })
				where := "--socket " + n.socket() + " --state-dir " + n.path("state") + " --bpf-dir " + n.bpfDir
				term.press("weirctl describe " + where + " " + n.namespace + "/compl\t")
				n.await("the name", func() bool { return strings.Contains(string(term.written()), n.namespace+"/completed") })
			})
		}
	}
	t.Run("with an agent", check)
	n.Kill()
	t.Run("without", check)
	out, err := exec.Command(filepath.Join(bin, "kubectl-weir"), "__complete", "describe", "--socket", n.socket(),
		"--state-dir", n.path("state"), "--bpf-dir", n.bpfDir, "").Output()
	if err != nil || !strings.HasPrefix(string(out), n.namespace+"/completed\t") {
		t.Errorf("kubectl_complete-weir would print %q, %v", out, err)
	}
}

// start starts a shell that finds what is in a directory first.
func (t *terminal) start(bin, command string) {
	t.tb.Helper()
	words := strings.Fields(command)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.line, t.line, t.line
	home := t.tb.TempDir()
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "TERM=xterm", "HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.tb.Fatal(err)
	}
	t.tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
