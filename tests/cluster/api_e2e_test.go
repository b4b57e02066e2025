// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// echo is an API in front of a server that answers what it is told.
type echo struct {
	*API
	tb      testing.TB
	address string
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	e := &echo{tb: t, address: "127.0.0.1:0"}
	listen := func() (net.Listener, error) {
		l, err := net.Listen("tcp", e.address)
		if err == nil {
			e.address = l.Addr().String()
		}
		return l, err
	}
	e.API, err = newAPI(listen, func() (net.Conn, error) { return net.Dial("tcp", server.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.close()
		server.Close()
	})
	return e
}

func (e *echo) connect() net.Conn {
	e.tb.Helper()
	c, err := net.Dial("tcp", e.address)
	if err != nil {
		e.tb.Fatal(err)
	}
	e.tb.Cleanup(func() { c.Close() })
	return c
}

// ask returns how long the answer took; an error when there was none in time.
func ask(c net.Conn, within time.Duration) (time.Duration, error) {
	start := time.Now()
	if _, err := c.Write([]byte("x")); err != nil {
		return 0, err
	}
	_ = c.SetReadDeadline(start.Add(within))
	_, err := io.ReadFull(c, make([]byte, 1))
	return time.Since(start), err
}

func TestE2EAPIPassesAndEnds(t *testing.T) {
	t.Parallel()
	c := newEcho(t).connect()
	if _, err := ask(c, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the end of what was said did not come back: %v", err)
	}
}

func TestE2EAPIDelays(t *testing.T) {
	t.Parallel()
	const delay = 300 * time.Millisecond
	e := newEcho(t)
	c := e.connect()
	if err := e.Delay(delay); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		took, err := ask(c, 10*delay)
		if err != nil {
			t.Fatal(err)
		}
		if took < delay {
			t.Errorf("answered after %v, sooner than %v", took, delay)
		}
	}
	if err := e.Pass(); err != nil {
		t.Fatal(err)
	}
	if took, err := ask(c, delay); err != nil {
		t.Errorf("not answered within %v of passing on: %v after %v", delay, err, took)
	}
}

func TestE2EAPIHangs(t *testing.T) {
	t.Parallel()
	e := newEcho(t)
	old := e.connect()
	if err := e.Hang(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{old, e.connect()} {
		if _, err := ask(c, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("no silence, but %v", err)
		}
		if err := e.Pass(); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatalf("what was held back has not been passed on: %v", err)
		}
		if err := e.Hang(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestE2EAPIRefuses(t *testing.T) {
	t.Parallel()
	e := newEcho(t)
	c := e.connect()
	if _, err := ask(c, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := e.Refuse(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(c, time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is not broken: %v", err)
	}
	if _, err := net.Dial("tcp", e.address); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a new connection is not refused: %v", err)
	}
	if err := e.Pass(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(e.connect(), time.Second); err != nil {
		t.Error(err)
	}
}
