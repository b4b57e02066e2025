// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/drops"
)

// ErrNoAgent is the error of an agent that does not answer.
var ErrNoAgent = errors.New("no agent answers")

// FromAgent asks the agent on a unix socket. The error is ErrNoAgent when nobody
// listens there.
func FromAgent(ctx context.Context, socket string) (*api.AttachmentList, error) {
	return ask[api.AttachmentList](ctx, socket, http.MethodGet, api.AttachmentsPath, nil)
}

// Version is that of the agent on a unix socket. The error is ErrNoAgent when nobody
// listens there.
func Version(ctx context.Context, socket string) (string, error) {
	answer, err := ask[api.VersionInfo](ctx, socket, http.MethodGet, api.VersionPath, nil)
	if err != nil {
		return "", err
	}
	return answer.Version, nil
}

// Metrics is what the agent on a unix socket tells Prometheus. The error is ErrNoAgent when
// nobody listens there.
func Metrics(ctx context.Context, socket string) ([]byte, error) {
	resp, err := request(ctx, socket, http.MethodGet, api.MetricsPath, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the agent's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the agent on %s answers %s", socket, resp.Status)
	}
	return text, nil
}

// LogLevel is the level from which on the agent on a unix socket logs. The error is
// ErrNoAgent when nobody listens there.
func LogLevel(ctx context.Context, socket string) (slog.Level, error) {
	answer, err := ask[api.LogLevel](ctx, socket, http.MethodGet, api.LogLevelPath, nil)
	if err != nil {
		return 0, err
	}
	return answer.Level, nil
}

// SetLogLevel changes it, until the agent ends. The error is ErrNoAgent when nobody listens
// there.
func SetLogLevel(ctx context.Context, socket string, level slog.Level) error {
	body, err := json.Marshal(api.LogLevel{Level: level})
	if err != nil {
		return err
	}
	_, err = ask[api.LogLevel](ctx, socket, http.MethodPut, api.LogLevelPath, body)
	return err
}

// Drops are those that the agent on a unix socket remembers and that match, the oldest first:
// so many at most, all for a number below 0. The error is ErrNoAgent when nobody listens
// there.
func Drops(ctx context.Context, socket string, f drops.Filter, last int) (*api.DropList, error) {
	return ask[api.DropList](ctx, socket, http.MethodGet, dropsPath(f, last, false), nil)
}

// ErrAgentWent is the error of an agent that ends while it is being followed.
var ErrAgentWent = errors.New("the agent went away")

// FollowDrops is Drops that goes on: each drop, and each number of those that the caller was
// too slow for, is given to take until that errs or ctx ends. The error is ErrNoAgent when
// nobody listens there, and ErrAgentWent when the agent ends.
func FollowDrops(ctx context.Context, socket string, f drops.Filter, last int, take func(api.DropLine) error) error {
	resp, err := request(ctx, socket, http.MethodGet, dropsPath(f, last, true), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := refusal(resp, socket); err != nil {
		return err
	}
	lines := json.NewDecoder(resp.Body)
	for {
		var line api.DropLine
		if err := lines.Decode(&line); err != nil {
			return fmt.Errorf("%w: %w", ErrAgentWent, err)
		}
		if err := take(line); err != nil {
			return err
		}
	}
}

func dropsPath(f drops.Filter, last int, follow bool) string {
	query := f.Query()
	query.Set("last", strconv.Itoa(last))
	query.Set("follow", strconv.FormatBool(follow))
	return api.DropsPath + "?" + query.Encode()
}

// refusal is the error of an answer that is none.
func refusal(resp *http.Response, socket string) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return fmt.Errorf("the agent on %s answers %s: %s", socket, resp.Status, bytes.TrimSpace(text))
}

// ask is one request, and the answer.
func ask[T any](ctx context.Context, socket, method, path string, body []byte) (*T, error) {
	resp, err := request(ctx, socket, method, path, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := refusal(resp, socket); err != nil {
		return nil, err
	}
	var answer T
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("reading the agent's answer: %w", err)
	}
	return &answer, nil
}

// Status asks the agent on a unix socket whether it could attach a pod now, with the
// configuration that a runtime would give it. The error is the agent's, which says what is
// missing, or ErrNoAgent when nobody listens there.
func Status(ctx context.Context, socket string, config json.RawMessage, binDir string) error {
	body, err := json.Marshal(&api.CNIRequest{Command: "STATUS", Path: binDir, Config: config})
	if err != nil {
		return err
	}
	resp, err := request(ctx, socket, http.MethodPost, api.CNIPath, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer api.CNIResponse
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("the agent on %s answers %s: %w", socket, resp.Status, err)
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}

func request(ctx context.Context, socket, method, path string, body []byte) (*http.Response, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+api.Host+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrNoAgent, socket, errors.Unwrap(err))
	}
	return resp, nil
}
