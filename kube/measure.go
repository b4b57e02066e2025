// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// measured has every request to the API server told, where somebody wants to know. The hooks
// of client-go are the process's; this is the store's own.
func measured(config *rest.Config, done func(verb, code string, took time.Duration)) {
	if done == nil {
		return
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &meteredTransport{next, done} })
}

// meteredTransport tells of each request how long its answer took to begin.
type meteredTransport struct {
	next http.RoundTripper
	done func(verb, code string, took time.Duration)
}

// RoundTrip implements http.RoundTripper.
func (t *meteredTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	answer, err := t.next.RoundTrip(r)
	code := "error"
	if err == nil {
		code = strconv.Itoa(answer.StatusCode)
	}
	t.done(verbOf(r), code, time.Since(began))
	return answer, err
}

// verbOf is the request's method, or WATCH for one whose answer has no end.
func verbOf(r *http.Request) string {
	if r.Method == http.MethodGet && strings.Contains(r.URL.RawQuery, "watch=") {
		return "WATCH"
	}
	return r.Method
}

// failures counts what has failed, by what it is.
type failures struct {
	mu  sync.Mutex
	all map[string]int
}

func (f *failures) add(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[string]int{}
	}
	f.all[what]++
}

// Cached is how many objects of each resource the store knows.
func (s *Store) Cached() map[string]int {
	return map[string]int{
		"pods": len(s.podCache.GetStore().ListKeys()), "NetworkAttachmentDefinitions": len(s.networkCache.GetStore().ListKeys()),
	}
}

// WatchFailures counts how often watching a resource has failed.
func (s *Store) WatchFailures() map[string]int {
	s.failures.mu.Lock()
	defer s.failures.mu.Unlock()
	counts := map[string]int{}
	for resource := range s.Cached() {
		counts[resource] = 0 // shown from the start
	}
	maps.Copy(counts, s.failures.all)
	return counts
}
