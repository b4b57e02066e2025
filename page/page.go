// SPDX-License-Identifier: Apache-2.0

package page

import (
	"embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
)

//go:embed static
var static embed.FS

// kinds are the types of the page's files, which are the same on every machine.
func kinds() map[string]string {
	return map[string]string{
		".html": "text/html; charset=utf-8",
		".css":  "text/css; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
		".svg":  "image/svg+xml",
	}
}

// policy lets the browser load what the agent serves, and nothing else from anywhere.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handle serves the page's files: the page at /, the others beside it.
func Handle(mux *http.ServeMux) error {
	entries, err := static.ReadDir("static")
	if err != nil {
		return fmt.Errorf("reading the page: %w", err)
	}
	for _, e := range entries {
		content, err := static.ReadFile(path.Join("static", e.Name()))
		if err != nil {
			return fmt.Errorf("reading the page: %w", err)
		}
		pattern := "GET /" + e.Name()
		if e.Name() == "index.html" {
			pattern = "GET /{$}"
		}
		mux.Handle(pattern, file(kinds()[path.Ext(e.Name())], content))
	}
	return nil
}

func file(kind string, content []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		header := w.Header()
		header.Set("Content-Type", kind)
		header.Set("Content-Security-Policy", policy)
		_, _ = w.Write(content) // the browser may go away
	})
}

// Guard lets browsers have what a handler answers only where they were sent to this machine
// by a name of its own, to read it, and keeps other sites from it. A foreign name may be a
// site's own that has come to mean 127.0.0.1 (DNS rebinding).
func Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		switch {
		case !isLocal(r.Host):
			http.Error(w, "this page is served under localhost and loopback addresses alone", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet:
			header.Set("Allow", http.MethodGet)
			http.Error(w, "this page is there to be read", http.StatusMethodNotAllowed)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isLocal tells whether the host of a request, with or without a port, is this machine as it
// calls itself.
func isLocal(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if name == "localhost" {
		return true
	}
	if len(name) > 2 && name[0] == '[' && name[len(name)-1] == ']' {
		name = name[1 : len(name)-1]
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}

// ErrNotLoopback is the error of an address that others than this machine can reach.
var ErrNotLoopback = errors.New("not a loopback address, as 127.0.0.1 or [::1]: the page asks nobody who they are, so it is for this machine alone")

// ValidateAddress checks that an address is one of loopback, as 127.0.0.1:9452 or
// [::1]:9452. The error is ErrNotLoopback where it is another.
func ValidateAddress(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port: %w", address, err)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.IsLoopback() {
		return fmt.Errorf("%s: %w", address, ErrNotLoopback)
	}
	return nil
}
