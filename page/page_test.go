// SPDX-License-Identifier: Apache-2.0

package page

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func serve(t *testing.T) http.Handler {
	t.Helper()
	mux := http.NewServeMux()
	if err := Handle(mux); err != nil {
		t.Fatal(err)
	}
	mux.HandleFunc("GET /v1/attachments", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"items":[]}`) })
	return Guard(mux)
}

// get is the status and the header of the answer.
func get(handler http.Handler, method, host, path string) (int, http.Header) {
	r := httptest.NewRequest(method, "http://localhost"+path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Code, w.Header()
}

func TestThePageIsServed(t *testing.T) {
	t.Parallel()
	handler := serve(t)
	for path, kind := range map[string]string{
		"/": "text/html; charset=utf-8", "/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8",
		"/icon.svg": "image/svg+xml",
	} {
		status, header := get(handler, http.MethodGet, "localhost:9452", path)
		if status != http.StatusOK || header.Get("Content-Type") != kind {
			t.Errorf("%s: %d, %s, want %s", path, status, header.Get("Content-Type"), kind)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
			"Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
	}
	for _, path := range []string{"/index.html", "/static/page.js", "/../page.go", "/v1/cni", "/favicon.ico"} {
		if status, _ := get(handler, http.MethodGet, "localhost", path); status == http.StatusOK {
			t.Errorf("%s is served", path)
		}
	}
}

// Nothing in the files asks for anything elsewhere, or puts text into the page as HTML.
func TestTheFilesKeepToThemselves(t *testing.T) {
	t.Parallel()
	foreign := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9]|@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\son[a-z]+=|\sstyle=|<style`)
	namespace := `xmlns="http://www.w3.org/2000/svg"`
	err := fs.WalkDir(static, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := static.ReadFile(path)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(content), "\n") {
			if found := foreign.FindString(strings.ReplaceAll(line, namespace, "")); found != "" {
				t.Errorf("%s:%d has %q", path, i+1, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestForeignNamesAreRefused(t *testing.T) {
	t.Parallel()
	handler := serve(t)
	for host, want := range map[string]int{
		"localhost": http.StatusOK, "localhost:9452": http.StatusOK, "127.0.0.1:9452": http.StatusOK, "127.1.2.3": http.StatusOK,
		"[::1]:9452": http.StatusOK, "[::1]": http.StatusOK,
		"": http.StatusMisdirectedRequest, "rebound.example": http.StatusMisdirectedRequest, "rebound.example:9452": http.StatusMisdirectedRequest,
		"localhost.rebound.example": http.StatusMisdirectedRequest, "127.0.0.1.rebound.example:80": http.StatusMisdirectedRequest,
		"192.0.2.1:9452": http.StatusMisdirectedRequest, "0.0.0.0:9452": http.StatusMisdirectedRequest, "[::]:9452": http.StatusMisdirectedRequest,
		"weir": http.StatusMisdirectedRequest, "localhost:9452:1": http.StatusMisdirectedRequest, "[::1": http.StatusMisdirectedRequest,
	} {
		for _, path := range []string{"/", "/v1/attachments"} {
			if status, _ := get(handler, http.MethodGet, host, path); status != want {
				t.Errorf("%s of host %q: %d, want %d", path, host, status, want)
			}
		}
	}
}

func TestThePageIsReadAlone(t *testing.T) {
	t.Parallel()
	handler := serve(t)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, http.MethodTrace} {
		status, header := get(handler, method, "localhost", "/v1/attachments")
		if status != http.StatusMethodNotAllowed || header.Get("Allow") != http.MethodGet || header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d, %v", method, status, header)
		}
	}
}

func TestValidateAddress(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:9452", "[::1]:9452", "127.0.0.2:0"} {
		if err := ValidateAddress(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"0.0.0.0:9452", "[::]:9452", "192.0.2.1:9452", ":9452", "node1:9452", "localhost:9452"} {
		if err := ValidateAddress(address); !errors.Is(err, ErrNotLoopback) {
			t.Errorf("%s: %v, want ErrNotLoopback", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1", "9452", "[::1]"} {
		if err := ValidateAddress(address); err == nil || errors.Is(err, ErrNotLoopback) {
			t.Errorf("%s: %v, want that it is no host:port", address, err)
		}
	}
}
