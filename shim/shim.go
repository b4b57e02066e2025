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

// DefaultSocket is the agent's socket where the configuration names none.
const DefaultSocket = "/run/weir/weir.sock"

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
func Del(args *skel.CmdArgs) error { return run("DEL", args) }

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
	c := &config{Socket: DefaultSocket}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "reading weir's configuration", err.Error())
	}
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
		return nil, unreachable(c.Socket, err)
	}
	return open(c.Socket, answer)
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
		return nil, types.NewError(types.ErrDecodingFailure,
			fmt.Sprintf("the answer on %s is not that of weir's agent", socket), err.Error())
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
	header := fmt.Sprintf("POST %s HTTP/1.0\r\nHost: weir\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
		api.CNIPath, len(body))
	if _, err := io.Copy(conn, io.MultiReader(strings.NewReader(header), bytes.NewReader(body))); err != nil {
		return nil, err
	}
	return receive(conn)
}

func dial(socket string) (net.Conn, error) {
	for began := time.Now(); ; time.Sleep(dialStep) {
		conn, err := net.Dial("unix", socket)
		if err == nil || time.Since(began) > dialPatience || !mayComeBack(err) {
			return conn, err
		}
	}
}

func mayComeBack(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// errTooLong is the error of an answer beyond answerMax.
var errTooLong = errors.New("the answer is too long")

func receive(conn io.Reader) ([]byte, error) {
	limited := &io.LimitedReader{R: conn, N: answerMax}
	reader := textproto.NewReader(bufio.NewReader(limited))
	status, err := reader.ReadLine()
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if _, err := reader.ReadMIMEHeader(); err != nil {
		return nil, fmt.Errorf("reading the answer's header: %w", err)
	}
	body, err := io.ReadAll(reader.R)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	case limited.N <= 0:
		return nil, errTooLong
	case !isOK(status):
		return nil, fmt.Errorf("the agent answers %q: %s", status, bytes.TrimSpace(body))
	}
	return body, nil
}

func isOK(status string) bool {
	version, rest, _ := strings.Cut(status, " ")
	code, _, _ := strings.Cut(rest, " ")
	return strings.HasPrefix(version, "HTTP/1.") && code == "200"
}
