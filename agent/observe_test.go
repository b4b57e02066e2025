// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/metrics"
)

// serving is an agent that serves its metrics until the test ends, and their address.
func serving(t *testing.T, o Options) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := newAgent(t)
	a.options, a.metrics = o, metrics.New(a.registry, "node1", "test")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.serveMetrics(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// selfSigned writes a certificate for 127.0.0.1 and its key to a directory.
func selfSigned(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weir"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyBytes})))
	pool := x509.NewCertPool()
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(certificate)
	return pool
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// With a web configuration nobody reads the metrics in the clear or without a password.
func TestMetricsBehindTLSAndPassword(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pool := selfSigned(t, dir)
	config := filepath.Join(dir, "web.yaml")
	// The hash is of the word "secret".
	write(t, config, `tls_server_config: {cert_file: cert.pem, key_file: key.pem}
basic_auth_users: {prometheus: "$2a$04$0OgIcI6.AcF38ELVQyNbbeP2ceuUdJoA6/.vANUfNxVJ4NEzVNGgO"}
`)
	o := Options{MetricsConfig: config, LogLevel: &slog.LevelVar{}}
	if err := o.validateMetricsConfig(); err != nil {
		t.Fatal(err)
	}
	address := serving(t, o)
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}
	for _, test := range []struct {
		name, url, password string
		want                int
	}{
		{"in the clear", "http://" + address + "/metrics", "secret", http.StatusBadRequest},
		{"no password", "https://" + address + "/metrics", "", http.StatusUnauthorized},
		{"a wrong password", "https://" + address + "/metrics", "guess", http.StatusUnauthorized},
		{"the password", "https://" + address + "/metrics", "secret", http.StatusOK},
	} {
		t.Run(test.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, test.url, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if test.password != "" {
				req.SetBasicAuth("prometheus", test.password)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != test.want {
				t.Errorf("status %s, want %d", resp.Status, test.want)
			}
		})
	}
}

func TestWebConfigurationsThatAreNotRight(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, config string }{
		{"no YAML", "{"},
		{"a key that there is not", "tls: {}"},
		{"a certificate that is missing", "tls_server_config: {cert_file: nowhere.pem, key_file: nowhere.pem}"},
		{"a password in the clear", "basic_auth_users: {prometheus: secret}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := Options{MetricsConfig: filepath.Join(t.TempDir(), "web.yaml")}
			write(t, o.MetricsConfig, test.config)
			if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), o.MetricsConfig) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Nothing is served beside the metrics and health that was not asked for.
func TestWhatIsServedBesideMetrics(t *testing.T) {
	t.Parallel()
	for _, profiles := range []bool{false, true} {
		address := serving(t, Options{Profiles: profiles})
		want := map[string]int{
			"/metrics": http.StatusOK, api.HealthPath: http.StatusOK, api.ReadyPath: http.StatusOK,
			"/": http.StatusNotFound, api.AttachmentsPath: http.StatusNotFound, api.LogLevelPath: http.StatusNotFound,
			"/debug/pprof/": http.StatusNotFound, "/debug/pprof/cmdline": http.StatusNotFound,
		}
		if profiles {
			want["/debug/pprof/"], want["/debug/pprof/cmdline"] = http.StatusOK, http.StatusOK
		}
		for path, status := range want {
			resp, err := http.Get("http://" + address + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != status {
				t.Errorf("profiles %v: %s: %s, want %d", profiles, path, resp.Status, status)
			}
		}
	}
}

func TestLogLevelIsChangedAtRunTime(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	for _, test := range []struct {
		body   string
		status int
		level  slog.Level
	}{
		{`{"level":"DEBUG"}`, http.StatusOK, slog.LevelDebug},
		{`{"level":"warn"}`, http.StatusOK, slog.LevelWarn},
		{`{"level":"LOUD"}`, http.StatusBadRequest, slog.LevelWarn},
		{`{`, http.StatusBadRequest, slog.LevelWarn},
	} {
		answer := httptest.NewRecorder()
		a.handleSetLogLevel(answer, httptest.NewRequest(http.MethodPut, api.LogLevelPath, strings.NewReader(test.body)))
		if answer.Code != test.status || a.options.LogLevel.Level() != test.level {
			t.Errorf("%s: status %d, level %s: %s", test.body, answer.Code, a.options.LogLevel.Level(), answer.Body)
		}
	}
	answer := httptest.NewRecorder()
	a.handleLogLevel(answer, httptest.NewRequest(http.MethodGet, api.LogLevelPath, http.NoBody))
	if got := strings.TrimSpace(answer.Body.String()); got != `{"level":"WARN"}` {
		t.Errorf("answer %s", got)
	}
}
