// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

const nobody = 65534

// Only root is served: the mode of the socket says so, and who gets past the mode
// is turned away.
func TestNetnsSocketIsRoots(t *testing.T) {
	n := newNode(t)
	for _, dir := range []string{n.dir, filepath.Dir(n.dir)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(n.socket())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket's mode is %s", info.Mode())
	}
	if served, err := servesNobody(n.socket()); served || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("served %t, error %v: want a refusal by the mode", served, err)
	}
	if err := os.Chmod(n.socket(), 0o666); err != nil {
		t.Fatal(err)
	}
	if served, err := servesNobody(n.socket()); served || err != nil {
		t.Errorf("served %t, error %v: want a connection that is closed", served, err)
	}
	if !n.serves() {
		t.Error("root is not served")
	}
}

// servesNobody asks for the agent's health as an ordinary user. The error is that
// of connecting.
func servesNobody(socket string) (served bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread, which alone has become another user, ends.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			err = errno
			return
		}
		var conn net.Conn
		if conn, err = net.Dial("unix", socket); err != nil {
			return
		}
		served = healthy(conn)
	}()
	<-done
	return served, err
}
