// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/weir-cni/weir/api"
)

// agent is a socket on which every connection is served by fn.
func agent(t *testing.T, fn func(net.Conn)) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "weir.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fn(conn)
			_ = conn.Close()
		}
	}()
	return socket
}

// answers reads one request and writes text.
func answers(text string) func(net.Conn) {
	return func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(conn, text)
	}
}

func argsFor(socket string) *skel.CmdArgs {
	config, _ := json.Marshal(map[string]string{"cniVersion": "1.0.0", "name": "weir", "type": "weir", "socket": socket})
	return &skel.CmdArgs{
		ContainerID: "abc", Netns: "/run/netns/a", IfName: "eth0", Args: "K8S_POD_NAME=a", Path: "/opt/cni/bin", StdinData: config,
	}
}

func TestCallHandsOverWhatTheRuntimeGave(t *testing.T) {
	t.Parallel()
	got := make(chan api.CNIRequest, 1)
	socket := agent(t, func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		var request api.CNIRequest
		if err := json.NewDecoder(req.Body).Decode(&request); err != nil || req.URL.Path != api.CNIPath {
			return
		}
		got <- request
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}")
	})
	if err := Del(argsFor(socket)); err != nil {
		t.Fatal(err)
	}
	request := <-got
	if request.Command != "DEL" || request.ContainerID != "abc" || request.Netns != "/run/netns/a" ||
		request.IfName != "eth0" || request.Args != "K8S_POD_NAME=a" || request.Path != "/opt/cni/bin" {
		t.Errorf("the agent was asked %+v", request)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.0 200 OK\r\n\r\n"
	tests := []struct {
		name, answer string
		code         uint // 0: none
		says         string
	}{
		{"done", ok + "{}", 0, ""},
		{"done, HTTP/1.1", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 0, ""},
		{"the agent's error", ok + `{"error":{"code":7,"msg":"network x: no","details":"d"}}`, 7, "network x: no; d"},
		{"a status", "HTTP/1.0 503 Service Unavailable\r\n\r\ntoo busy\n", 11, "too busy"},
		{"no answer", "", 11, "does not answer"},
		{"cut in the header", "HTTP/1.0 200", 11, "does not answer"},
		{"cut in the body", ok + `{"error":{"code":7`, 11, "middle of its answer"},
		{"empty", ok, 11, "middle of its answer"},
		{"not JSON", ok + "hello", 6, "not that of weir's agent"},
		{"not HTTP", "220 mail.example.com ESMTP\r\n\r\n", 11, "220 mail.example.com"},
		{"endless", ok + strings.Repeat(" ", answerMax), 11, "too long"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := Del(argsFor(agent(t, answers(test.answer))))
			if test.code == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			cniErr, isCNI := errors.AsType[*types.Error](err)
			if !isCNI || cniErr.Code != test.code {
				t.Fatalf("error %#v, want code %d", err, test.code)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q does not say %q", err, test.says)
			}
		})
	}
}

func TestMissingAgent(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "nobody.sock")
	err := Del(argsFor(socket))
	cniErr, isCNI := errors.AsType[*types.Error](err)
	if !isCNI || cniErr.Code != types.ErrTryAgainLater {
		t.Fatalf("error %v, want code %d", err, types.ErrTryAgainLater)
	}
	for _, want := range []string{socket, "weir-agent", "--socket"} {
		if !strings.Contains(cniErr.Msg+cniErr.Details, want) {
			t.Errorf("%v does not name %s", cniErr, want)
		}
	}
}

func TestAnAgentThatRestartsIsNoError(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "weir.sock")
	go func() {
		time.Sleep(200 * time.Millisecond)
		listener, err := net.Listen("unix", socket)
		if err != nil {
			return
		}
		defer listener.Close()
		if conn, err := listener.Accept(); err == nil {
			answers("HTTP/1.0 200 OK\r\n\r\n{}")(conn)
			_ = conn.Close()
		}
	}()
	if err := Del(argsFor(socket)); err != nil {
		t.Error(err)
	}
}

func TestConfigurationThatIsNotJSON(t *testing.T) {
	t.Parallel()
	err := Del(&skel.CmdArgs{StdinData: []byte("{")})
	if cniErr, isCNI := errors.AsType[*types.Error](err); !isCNI || cniErr.Code != types.ErrDecodingFailure {
		t.Errorf("error %v, want code %d", err, types.ErrDecodingFailure)
	}
}

// build makes the plugin as `make build` does.
func build(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "weir")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/weir-cni/weir/cmd/weir")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func TestThePluginIsSmall(t *testing.T) {
	t.Parallel()
	const most = 6 << 20
	info, err := os.Stat(build(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > most {
		t.Errorf("weir has %d bytes, at most %d are allowed", info.Size(), most)
	}
	out, err := exec.Command("go", "list", "-deps", "github.com/weir-cni/weir/cmd/weir").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		for _, heavy := range []string{"net/http\n", "k8s.io/", "github.com/cilium/ebpf", "github.com/vishvananda/netlink"} {
			if strings.HasPrefix(dep, heavy) {
				t.Errorf("weir depends on %s", dep)
			}
		}
	}
}

// The binary answers in the version that the configuration asks for.
func TestThePluginConvertsTheResult(t *testing.T) {
	t.Parallel()
	weir := build(t)
	socket := agent(t, answers("HTTP/1.0 200 OK\r\n\r\n"+
		`{"result":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"interface":0,"address":"192.0.2.1/24"}]}}`))
	tests := map[string]string{
		"0.3.0": `"version": "4"`,
		"0.3.1": `"version": "4"`,
		"0.4.0": `"version": "4"`,
		"1.0.0": `"address": "192.0.2.1/24"`,
		"1.1.0": `"address": "192.0.2.1/24"`,
	}
	for version, want := range tests {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			config, _ := json.Marshal(map[string]string{"cniVersion": version, "name": "weir", "type": "weir", "socket": socket})
			cmd := exec.Command(weir)
			cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=a", "CNI_NETNS=/proc/1/ns/none", "CNI_IFNAME=eth0", "CNI_PATH=/"}
			cmd.Stdin = bytes.NewReader(config)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if !strings.Contains(string(out), want) || !strings.Contains(string(out), `"cniVersion": "`+version+`"`) {
				t.Errorf("result of version %s: %s", version, out)
			}
		})
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("HTTP/1.0 200 OK\r\nA: b\r\n\r\n{}"))
	f.Add([]byte("HTTP/1.1 500\r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		body, err := receive(bytes.NewReader(answer))
		if err != nil {
			return
		}
		if _, err := open("s", body); err != nil {
			if _, isCNI := errors.AsType[*types.Error](err); !isCNI {
				t.Errorf("%v is no CNI error", err)
			}
		}
	})
}
