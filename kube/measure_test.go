// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// roundTrip is a transport that is a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Every request is told once, by what it is and what came of it, also where nobody answers.
func TestRequestsAreMeasured(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			w.WriteHeader(http.StatusConflict)
		}
	}))
	t.Cleanup(server.Close)
	var told []string
	config := &rest.Config{Host: server.URL}
	measured(config, func(verb, code string, took time.Duration) {
		if took < 0 {
			t.Errorf("it took %s", took)
		}
		told = append(told, verb+" "+code)
	})
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ method, path string }{{http.MethodGet, "/pods"}, {http.MethodGet, "/pods?watch=true"}, {http.MethodPatch, "/pods/web"}} {
		request, err := http.NewRequestWithContext(t.Context(), r.method, server.URL+r.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
	}
	silent := &meteredTransport{
		roundTrip(func(*http.Request) (*http.Response, error) { return nil, errors.New("nobody answers") }),
		func(verb, code string, _ time.Duration) { told = append(told, verb+" "+code) },
	}
	request := httptest.NewRequest(http.MethodDelete, "/pods/web", nil)
	if answer, err := silent.RoundTrip(request); err == nil {
		_ = answer.Body.Close()
		t.Error("an answer of nobody")
	}
	if want := []string{"GET 200", "WATCH 200", "PATCH 409", "DELETE error"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	untouched := &rest.Config{Host: server.URL}
	if measured(untouched, nil); untouched.WrapTransport != nil {
		t.Error("nobody wants to know, and it is measured")
	}
}
