// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/weir-cni/weir/tests/kernels/guest"
)

// errDeadline means that a VM took longer than it may.
var errDeadline = errors.New("the VM did not end in time and was killed")

// machine is a VM to boot.
type machine struct {
	image, initramfs string
	// console is the file for what the kernel says, tests that for what the tests
	// print: each has a serial line, so that neither breaks into the other's.
	console, tests string
	timeout        time.Duration
}

// card is a network card, with its place on the PCI bus.
type card struct{ model, slot string }

// cards are joined by a hub. A virtio card is two devices to the kernel, the one on
// PCI and the one that it carries; the others are one.
func cards() []card {
	return []card{{"virtio-net-pci", "0x10"}, {"virtio-net-pci", "0x11"}, {"vmxnet3", "0x12"}}
}

// arguments boots without any device but serial lines and network cards. An oops
// ends the VM.
func (m machine) arguments() []string {
	all := append(guest.Emulation(),
		"-smp", "2", "-m", "2048",
		"-kernel", m.image, "-initrd", m.initramfs,
		"-append", "console=ttyS0 loglevel=5 oops=panic panic=-1",
		"-nodefaults", "-display", "none", "-no-reboot",
	)
	for i, c := range cards() {
		all = append(all,
			"-netdev", fmt.Sprintf("hubport,id=card%d,hubid=0", i),
			"-device", fmt.Sprintf("%s,netdev=card%d,addr=%s,mac=02:00:5e:00:53:%02x,romfile=", c.model, i, c.slot, i),
		)
	}
	return all
}

// run boots the VM, gives each line that the tests print to line, and returns
// when the VM is off. An error means that the VM itself went wrong.
func (m machine) run(ctx context.Context, line func(string)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.timeout, errDeadline)
	defer cancel()
	log, err := os.Create(m.tests)
	if err != nil {
		return fmt.Errorf("opening the log of the tests: %w", err)
	}
	defer log.Close()
	lines := &lineWriter{each: line}
	cmd := m.command(ctx, "-serial", "file:"+m.console, "-serial", "stdio")
	cmd.Stdout = io.MultiWriter(log, lines)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	err = start(cmd)
	lines.flush()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("running %s: %w: %s", guest.QEMU, err, strings.TrimSpace(complaints.String()))
	}
	return nil
}

// shell gives the terminal to the VM.
func (m machine) shell(ctx context.Context) error {
	cmd := m.command(ctx, "-serial", "mon:stdio")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return start(cmd)
}

func (m machine) command(ctx context.Context, serial ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, guest.QEMU, append(m.arguments(), serial...)...)
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start runs cmd on one thread, because the signal that ends cmd when its parent
// dies is sent when the thread dies that started it.
func start(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// lineWriter cuts what is written to it into lines, without their ends.
type lineWriter struct {
	each func(string)
	rest []byte
}

// Write always takes all of p.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		w.each(strings.TrimRight(string(line), "\r"))
		w.rest = rest
	}
}

func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.each(string(w.rest))
	}
}
