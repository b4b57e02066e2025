// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"sync"
	"time"

	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

const (
	// listPause is the least time between two lists. The kubelet takes 100 questions a
	// second from all who ask.
	listPause = 20 * time.Millisecond
	// listTimeout bounds a list with its repetitions, such that who waits for it, or even
	// for the one before, still hears why there is none.
	listTimeout = 4 * time.Second
)

type askList func(context.Context) (*podresources.ListPodResourcesResponse, error)

// sharedList lets all who ask at a time share one list. Nobody gets a list that was
// asked for before he came: it may be of a moment when his pod had only part of its
// devices, or when another pod had its name. So one list is being asked for at most,
// and those who come meanwhile share the next.
type sharedList struct {
	ask  askList
	turn chan struct{}

	mu   sync.Mutex
	next *listing
}

// listing is one list; the answer is there when done is closed.
type listing struct {
	done   chan struct{}
	answer *podresources.ListPodResourcesResponse
	err    error
}

func newSharedList(ask askList) *sharedList {
	return &sharedList{ask: ask, turn: make(chan struct{}, 1)}
}

// get returns a list, which is not to be changed.
func (s *sharedList) get(ctx context.Context) (*podresources.ListPodResourcesResponse, error) {
	l := s.join(ctx)
	select {
	case <-l.done:
		return l.answer, l.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the list of all pods: %w", ctx.Err())
	}
}

func (s *sharedList) join(ctx context.Context) *listing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = &listing{done: make(chan struct{})}
		// The others must not lose the list when the first to ask gives up.
		go s.run(context.WithoutCancel(ctx), s.next)
	}
	return s.next
}

func (s *sharedList) run(ctx context.Context, l *listing) {
	s.turn <- struct{}{}
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	l.answer, l.err = s.ask(ctx)
	close(l.done)
	time.Sleep(listPause)
	<-s.turn
}
