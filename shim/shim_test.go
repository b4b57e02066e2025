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
	"syscall"
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
		code         uint
		says         string // empty: no error
	}{
		{"done", ok + "{}", 0, ""},
		{"done, HTTP/1.1", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 0, ""},
		{"the agent's error", ok + `{"error":{"code":7,"msg":"network x: no","details":"d"}}`, 7, "network x: no; d"},
		{"the agent's error of no code", ok + `{"error":{"msg":"m"}}`, 0, "m"},
		{"not now", "HTTP/1.0 503 Service Unavailable\r\n\r\ntoo busy\n", 11, "503 Service Unavailable: too busy"},
		{"refused", "HTTP/1.0 400 Bad Request\r\n\r\nreading the request: no\n", 999, "400 Bad Request: reading the request: no"},
		{"a status alone", "HTTP/1.0 500\r\n\r\n", 999, "refuses the request; 500"},
		{"an endless reason", "HTTP/1.0 500 x\r\n\r\n" + strings.Repeat("x", 1<<20), 999, "500 x: xxx"},
		{"no answer", "", 11, "does not answer"},
		{"cut in the header", "HTTP/1.0 200", 11, "does not answer"},
		{"cut in the body", ok + `{"error":{"code":7`, 11, "middle of its answer"},
		{"empty", ok, 11, "middle of its answer"},
		{"not JSON", ok + "hello", 6, "not that of weir's agent"},
		{"JSON of another form", ok + "[]", 6, "not that of weir's agent"},
		{"not HTTP", "220 mail.example.com ESMTP\r\n\r\n", 6, "220 mail.example.com"},
		{"no header", "HTTP/1.0 200 OK\r\n{}\r\n\r\n", 6, "malformed MIME header"},
		{"empty lines", "\r\n\r\n", 6, "not HTTP"},
		{"no version", " 200 OK\r\n\r\n{}", 6, "not HTTP"},
		{"HTTP/2", "HTTP/2 200 OK\r\n\r\n{}", 6, "HTTP/2"},
		{"endless", ok + strings.Repeat(" ", answerMax), 6, "too long"},
		{"an endless header", "HTTP/1.0 200 OK\r\nA: " + strings.Repeat("x", answerMax), 6, "too long"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := Del(argsFor(agent(t, answers(test.answer))))
			if test.says == "" {
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
			if len(err.Error()) > 2*reasonMax {
				t.Errorf("the error has %d characters", len(err.Error()))
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

// An agent that refuses a request by its length closes before it has read it.
// containerd takes what has one of these phrases for a sandbox that is gone already.
func TestDelIsNotTakenForDone(t *testing.T) {
	for _, socket := range []string{
		filepath.Join(t.TempDir(), "nobody.sock"),
		agent(t, answers("HTTP/1.0 200 OK\r\n\r\n"+`{"error":{"code":100,"msg":"Not done: link not found","details":"open x: no such file or directory"}}`)),
	} {
		failure, ok := errors.AsType[*types.Error](Del(argsFor(socket)))
		if !ok {
			t.Fatalf("%s: no CNI error", socket)
		}
		for _, phrase := range []string{"no such file or directory", "not found"} {
			if strings.Contains(failure.Error(), phrase) {
				t.Errorf("%q has %q", failure, phrase)
			}
		}
	}
}

func TestARefusalBeforeTheRequestIsSent(t *testing.T) {
	t.Parallel()
	socket := agent(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.0 413 Too Large\r\n\r\nno more than 16 MiB\n")
	})
	args := argsFor(socket)
	args.Args = strings.Repeat("x", 8<<20)
	err := Del(args)
	if err == nil || !strings.Contains(err.Error(), "no more than 16 MiB") {
		t.Errorf("error %v does not say why", err)
	}
}

func TestAnAgentThatDiesWhileTheRequestIsSent(t *testing.T) {
	t.Parallel()
	args := argsFor(agent(t, func(net.Conn) {}))
	args.Args = strings.Repeat("x", 8<<20)
	err := Del(args)
	if cniErr, isCNI := errors.AsType[*types.Error](err); !isCNI || cniErr.Code != types.ErrTryAgainLater {
		t.Errorf("error %v, want code %d", err, types.ErrTryAgainLater)
	}
}

// Connecting to a unix socket whose queue is full fails at once with EAGAIN.
func TestAFullQueueIsWaitedFor(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "weir.sock")
	listener, connected := fullQueue(t, socket)
	go func() {
		time.Sleep(200 * time.Millisecond)
		for _, conn := range connected {
			_ = conn.Close()
		}
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			answers("HTTP/1.0 200 OK\r\n\r\n{}")(conn)
			_ = conn.Close()
		}
	}()
	if err := Del(argsFor(socket)); err != nil {
		t.Error(err)
	}
}

// fullQueue listens with the shortest queue there is and fills it.
func fullQueue(t *testing.T, socket string) (net.Listener, []net.Conn) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), socket)
	defer file.Close()
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	listener, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var connected []net.Conn
	for range 64 {
		conn, err := net.Dial("unix", socket)
		if errors.Is(err, syscall.EAGAIN) {
			return listener, connected
		}
		if err != nil {
			t.Fatal(err)
		}
		connected = append(connected, conn)
	}
	t.Fatal("the queue takes any number")
	return nil, nil
}

func TestResultsThatAreNotOnes(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"none":               `{}`,
		"not an object":      `{"result":7}`,
		"an unknown version": `{"result":{"cniVersion":"9.9.9"}}`,
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Add(argsFor(agent(t, answers("HTTP/1.0 200 OK\r\n\r\n"+answer))))
			if cniErr, isCNI := errors.AsType[*types.Error](err); !isCNI || cniErr.Code != types.ErrDecodingFailure {
				t.Errorf("error %v, want code %d", err, types.ErrDecodingFailure)
			}
		})
	}
}

func TestTheSocketOfTheConfiguration(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, config, want string }{
		{"none", `{}`, api.DefaultSocket},
		{"empty", `{"socket":""}`, api.DefaultSocket},
		{"another", `{"socket":"/a"}`, "/a"},
	}
	for _, test := range tests {
		if c, err := read([]byte(test.config)); err != nil || c.Socket != test.want {
			t.Errorf("%s: %+v, %v; want %s", test.name, c, err, test.want)
		}
	}
}

// Every command reaches the agent as itself, without what it has not.
func TestCommands(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	socket := agent(t, func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		var request api.CNIRequest
		if err := json.NewDecoder(req.Body).Decode(&request); err != nil {
			return
		}
		got <- request.Command + request.ContainerID
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"+`{"result":{"cniVersion":"1.1.0"}}`)
	})
	functions := Functions()
	for want, function := range map[string]func(*skel.CmdArgs) error{
		"CHECK": functions.Check, "DEL": functions.Del, "GC": functions.GC, "STATUS": functions.Status,
	} {
		if err := function(&skel.CmdArgs{StdinData: argsFor(socket).StdinData}); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if command := <-got; command != want {
			t.Errorf("the agent was asked %s, want %s", command, want)
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
	const most = 6_000_000
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

// What the binary says to a runtime, or to a human who runs it, without an agent.
func TestThePluginAlone(t *testing.T) {
	t.Parallel()
	weir := build(t)
	socket := filepath.Join(t.TempDir(), "nobody.sock")
	config := `{"cniVersion":"1.1.0","name":"weir","type":"weir","socket":"` + socket + `"}`
	status := []string{"CNI_COMMAND=STATUS", "CNI_PATH=/"}
	tests := []struct {
		name, stdin    string
		env            []string
		fails          bool
		stdout, stderr []string
	}{
		{
			name:   "by hand",
			stderr: []string{"weir devel", "CNI_COMMAND", "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"},
		},
		{
			name:   "VERSION",
			stdin:  `{"cniVersion":"1.1.0"}`,
			env:    []string{"CNI_COMMAND=VERSION"},
			stdout: []string{`"supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`},
		},
		{
			name: "no agent", stdin: config, env: status, fails: true,
			stdout: []string{`"code": 11`, socket, "systemctl status weir-agent", "kubectl get pods"},
		},
		{
			name: "no JSON", stdin: "{", env: status, fails: true,
			stdout: []string{`"code": 6`},
		},
		{
			name: "a version of before", stdin: strings.Replace(config, "1.1.0", "0.2.0", 1), fails: true,
			env:    []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=a", "CNI_IFNAME=eth0", "CNI_PATH=/"},
			stdout: []string{`"code": 1`, "0.2.0"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr strings.Builder
			cmd := exec.CommandContext(t.Context(), weir)
			cmd.Env = append([]string{"PATH="}, test.env...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(test.stdin), &stdout, &stderr
			if err := cmd.Run(); (err != nil) != test.fails {
				t.Errorf("ended with %v, want an error %v", err, test.fails)
			}
			contains(t, "stdout", stdout.String(), test.stdout)
			contains(t, "stderr", stderr.String(), test.stderr)
		})
	}
}

func contains(t *testing.T, what, text string, wants []string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%s %q does not say %q", what, text, want)
		}
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
