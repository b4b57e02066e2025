// SPDX-License-Identifier: Apache-2.0

// Package shim is the CNI plugin's side: it hands a request of the runtime to the
// agent over its unix socket and prints what the agent answers. It holds no logic
// of its own, so that the program that every runtime executes stays small and
// starts at once.
//
// It speaks HTTP/1.0, whose answers end with the connection, with the little of
// it written out here: net/http alone would more than double the program.
package shim

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/weir-cni/weir/api"
)

const (
	// dialPatience is how long a socket that is missing or refuses is tried
	// again: an agent that restarts is no error.
	dialPatience = time.Second
	dialStep     = 50 * time.Millisecond
	// requestTimeout bounds a request. Plugins that the agent executes may be
	// slow; kubelet itself gives up after some four minutes.
	requestTimeout = 5 * time.Minute
	// answerMax bounds the agent's answer, in bytes.
	answerMax = 16 << 20
	// reasonMax bounds what an error repeats of an answer, in characters.
	reasonMax = 1000
)

// Functions are the plugin's commands.
func Functions() skel.CNIFuncs {
	return skel.CNIFuncs{Add: Add, Check: Check, Del: Del, GC: GC, Status: Status}
}

// Add has the agent attach a container to its networks and prints the result of
// the default network in the version of the configuration.
func Add(args *skel.CmdArgs) error {
	response, err := call("ADD", args)
	if err != nil {
		return err
	}
	config, err := read(args.StdinData)
	if err != nil {
		return err
	}
	result, err := create.CreateFromBytes(response.Result)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "reading the agent's result", err.Error())
	}
	return types.PrintResult(result, config.CNIVersion)
}

// Check has the agent compare what is there with what ADD made.
func Check(args *skel.CmdArgs) error { return run("CHECK", args) }

// Del has the agent take a container's networks away.
func Del(args *skel.CmdArgs) error { return asFailure(run("DEL", args)) }

// asFailure words an error of DEL so that containerd takes it for one. Its library for CNI
// (go-cni's Remove) looks for two phrases in what a plugin says, and takes what has them for
// a sandbox that is gone already: it then never calls DEL again.
func asFailure(err error) error {
	failure, ok := errors.AsType[*types.Error](err)
	if !ok {
		return err
	}
	words := strings.NewReplacer("no such file or directory", "it is missing (ENOENT)", "not found", "missing")
	return types.NewError(failure.Code, words.Replace(failure.Msg), words.Replace(failure.Details))
}

// GC has the agent take away what the runtime does not list as valid.
func GC(args *skel.CmdArgs) error { return run("GC", args) }

// Status asks whether an ADD could work now.
func Status(args *skel.CmdArgs) error { return run("STATUS", args) }

func run(command string, args *skel.CmdArgs) error {
	_, err := call(command, args)
	return err
}

// config is the little of weir's configuration that the plugin itself needs.
type config struct {
	CNIVersion string `json:"cniVersion"`
	Socket     string `json:"socket"`
}

func read(data []byte) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "reading weir's configuration", err.Error())
	}
	c.Socket = cmp.Or(c.Socket, api.DefaultSocket)
	return c, nil
}

// call makes one request of the agent. The error is a CNI error.
func call(command string, args *skel.CmdArgs) (*api.CNIResponse, error) {
	c, err := read(args.StdinData)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(&api.CNIRequest{
		Command:     command,
		ContainerID: args.ContainerID,
		Netns:       args.Netns,
		IfName:      args.IfName,
		Args:        args.Args,
		Path:        args.Path,
		Config:      args.StdinData,
	})
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "writing the request", err.Error())
	}
	answer, err := post(c.Socket, body)
	if err != nil {
		return nil, explain(c.Socket, err)
	}
	return open(c.Socket, answer)
}

// explain makes a CNI error of one of post. Only what may be otherwise in a while
// asks the runtime to try again.
func explain(socket string, err error) error {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return types.NewError(refused.cniCode(), fmt.Sprintf("weir's agent on %s refuses the request", socket), err.Error())
	}
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok || errors.Is(err, errNotHTTP) || errors.Is(err, errTooLong) {
		return foreign(socket, err)
	}
	return unreachable(socket, err)
}

func foreign(socket string, err error) error {
	return types.NewError(types.ErrDecodingFailure,
		fmt.Sprintf("the answer on %s is not that of weir's agent", socket), err.Error())
}

func unreachable(socket string, err error) error {
	return types.NewError(types.ErrTryAgainLater,
		fmt.Sprintf("weir's agent does not answer on %s", socket),
		fmt.Sprintf("%v. Check that weir-agent runs on this node and that its --socket is the socket of this "+
			"configuration: systemctl status weir-agent, or kubectl get pods -A -l app=weir -o wide", err))
}

func open(socket string, answer []byte) (*api.CNIResponse, error) {
	response := &api.CNIResponse{}
	err := json.Unmarshal(answer, response)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && syntax.Offset == int64(len(answer)) {
		return nil, unreachable(socket, errors.New("it went away in the middle of its answer"))
	}
	if err != nil {
		return nil, foreign(socket, err)
	}
	if response.Error != nil {
		return nil, response.Error
	}
	return response, nil
}

// post sends the body and returns the body of the answer.
func post(socket string, body []byte) ([]byte, error) {
	conn, err := dial(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, err
	}
	header := fmt.Sprintf("POST %s HTTP/1.0\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
		api.CNIPath, api.Host, len(body))
	_, sendErr := io.Copy(conn, io.MultiReader(strings.NewReader(header), bytes.NewReader(body)))
	// An agent that refuses a request need not read it to its end first.
	answer, err := receive(conn)
	if err != nil && sendErr != nil && !isRefusal(err) {
		return nil, fmt.Errorf("sending the request: %w", sendErr)
	}
	return answer, err
}

func dial(socket string) (net.Conn, error) {
	for began := time.Now(); ; time.Sleep(dialStep) {
		conn, err := net.Dial("unix", socket)
		if err == nil || time.Since(began) > dialPatience || !mayComeBack(err) {
			return conn, err
		}
	}
}

// mayComeBack tells the errors of a socket whose agent starts, or has more
// callers waiting than its queue holds (EAGAIN).
func mayComeBack(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
}

var (
	// errTooLong is the error of an answer beyond answerMax.
	errTooLong = errors.New("the answer is too long")
	// errNotHTTP is the error of an answer in another protocol.
	errNotHTTP = errors.New("it is not HTTP")
)

// refusal is the error of an answer with a status other than 200.
type refusal struct{ code, reason, body string }

func (r *refusal) Error() string { return strings.TrimSpace(r.code + " " + r.reason + ": " + r.body) }

func (r *refusal) cniCode() uint {
	if r.code == "503" {
		return types.ErrTryAgainLater
	}
	return types.ErrInternal
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*refusal](err)
	return ok
}

func receive(conn io.Reader) ([]byte, error) {
	limited := &io.LimitedReader{R: conn, N: answerMax}
	status, body, err := split(bufio.NewReader(limited))
	if limited.N <= 0 {
		return nil, errTooLong
	}
	version, status, _ := strings.Cut(status, " ")
	code, reason, _ := strings.Cut(status, " ")
	switch {
	case version == "" && err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	case !strings.HasPrefix(version, "HTTP/1."):
		return nil, fmt.Errorf("%w, but begins with %.80q", errNotHTTP, version+" "+status)
	case code != "200":
		// The connection ends with an error where the request was not read whole.
		return nil, &refusal{code, reason, fmt.Sprintf("%.*s", reasonMax, bytes.TrimSpace(body))}
	case err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return body, nil
}

// split reads the parts of an answer that matter: its first line and its body.
// Where the header cannot be read to its end there is the error alone.
func split(r *bufio.Reader) (status string, body []byte, err error) {
	reader := textproto.NewReader(r)
	if status, err = reader.ReadLine(); err != nil {
		return "", nil, err
	}
	if _, err = reader.ReadMIMEHeader(); err != nil {
		return "", nil, err
	}
	body, err = io.ReadAll(r)
	return status, body, err
}
