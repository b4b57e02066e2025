// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// API is the way from the nodes to the API server: every connection of a kubelet
// or a pod passes through it, none of the tests' own does. It passes all on until
// it is told otherwise.
type API struct {
	listen func() (net.Listener, error)
	dial   func() (net.Conn, error)

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
	state    apiState
	// changed is closed when state is another.
	changed chan struct{}
}

// apiState is what an API does with what it is given.
type apiState struct {
	delay         time.Duration
	hangs, closed bool
}

// errClosed means that the API has been closed.
var errClosed = errors.New("the way to the API server is closed")

func newAPI(listen func() (net.Listener, error), dial func() (net.Conn, error)) (*API, error) {
	a := &API{listen: listen, dial: dial, conns: map[net.Conn]struct{}{}, changed: make(chan struct{})}
	return a, a.open()
}

// Pass passes everything on at once, also what was held back.
func (a *API) Pass() error { return a.become(apiState{}) }

// Delay has every byte to the API server arrive so much later. A request on a new
// connection is late by twice that: TLS needs a round trip first.
func (a *API) Delay(d time.Duration) error { return a.become(apiState{delay: d}) }

// Hang keeps connections, and takes new ones, and passes nothing on in either
// direction.
func (a *API) Hang() error { return a.become(apiState{hangs: true}) }

// Refuse breaks all connections and has new ones refused.
func (a *API) Refuse() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shut()
	a.change(apiState{})
	return nil
}

func (a *API) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shut()
	a.change(apiState{closed: true})
}

func (a *API) become(s apiState) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state.closed {
		return errClosed
	}
	a.change(s)
	if a.listener != nil {
		return nil
	}
	return a.open()
}

// change needs the lock.
func (a *API) change(s apiState) {
	a.state = s
	close(a.changed)
	a.changed = make(chan struct{})
}

// open needs the lock.
func (a *API) open() error {
	l, err := a.listen()
	if err != nil {
		return fmt.Errorf("listening for those who look for the API server: %w", err)
	}
	a.listener = l
	go a.accept(l)
	return nil
}

// shut needs the lock.
func (a *API) shut() {
	if a.listener != nil {
		a.listener.Close()
		a.listener = nil
	}
	for c := range a.conns {
		reset(c)
	}
	clear(a.conns)
}

// reset closes a connection so that its other end sees it broken.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

func (a *API) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if a.keep(l, c) {
			go a.serve(l, c)
		}
	}
}

// keep notes a connection, unless the listener that it came by is gone.
func (a *API) keep(l net.Listener, c net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.listener != l {
		reset(c)
		return false
	}
	a.conns[c] = struct{}{}
	return true
}

func (a *API) forget(c net.Conn) {
	a.mu.Lock()
	delete(a.conns, c)
	a.mu.Unlock()
	_ = c.Close()
}

func (a *API) serve(l net.Listener, client net.Conn) {
	defer a.forget(client)
	server, err := a.dial()
	if err != nil {
		return
	}
	if !a.keep(l, server) {
		return
	}
	defer a.forget(server)
	var both sync.WaitGroup
	both.Go(func() { a.copy(server, client, true) })
	both.Go(func() { a.copy(client, server, false) })
	both.Wait()
}

// chunk is what was read at once.
type chunk struct {
	data []byte
	at   time.Time
}

// copy passes on what one end says, until it has said all.
func (a *API) copy(to, from net.Conn, delayed bool) {
	// A reader of its own keeps the time at which each chunk came.
	chunks := make(chan chunk, 1024)
	stop := make(chan struct{})
	defer close(stop)
	go read(from, chunks, stop)
	for c := range chunks {
		if !a.hold(c.at, delayed) {
			return
		}
		if _, err := to.Write(c.data); err != nil {
			// The other direction ends as well.
			_ = from.Close()
			return
		}
	}
	if t, ok := to.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}

func read(from io.Reader, chunks chan<- chunk, stop <-chan struct{}) {
	defer close(chunks)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case chunks <- chunk{data: append([]byte(nil), buf[:n]...), at: time.Now()}:
			case <-stop:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// hold returns when what was read at that time may go on; false when nothing may
// any more.
func (a *API) hold(at time.Time, delayed bool) bool {
	for {
		a.mu.Lock()
		state, changed := a.state, a.changed
		a.mu.Unlock()
		var due <-chan time.Time
		switch {
		case state.closed:
			return false
		case state.hangs:
		case !delayed || time.Since(at) >= state.delay:
			return true
		default:
			due = time.After(time.Until(at.Add(state.delay)))
		}
		select {
		case <-due:
		case <-changed:
		}
	}
}
