// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/weir-cni/weir/api"
)

// askTimeout bounds the agent's answer: the default network's plugins may be asked, too.
const askTimeout = 20 * time.Second

// askAgent finds whether the agent could attach a pod with the entry: a runtime asks the
// same (STATUS) before it takes a node for ready.
func (p *Plan) askAgent(ctx context.Context) {
	if p.options.Socket == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := p.status(ctx); err != nil {
		p.problem("weir could attach no pod at the moment: %v", err)
	}
}

func (p *Plan) status(ctx context.Context) error {
	entry, err := parseEntry(p.Entry)
	if err != nil {
		return err
	}
	config := entry.Settings
	config["name"], config["type"], config["cniVersion"] = entry.Name, "weir", entry.CNIVersion
	request := api.CNIRequest{Command: "STATUS", Path: p.options.BinDir}
	if request.Config, err = json.Marshal(config); err != nil {
		return err
	}
	body, err := json.Marshal(&request)
	if err != nil {
		return err
	}
	own, _ := config["socket"].(string)
	return post(ctx, cmp.Or(own, p.options.Socket), body)
}

// post makes a request of the agent. The error is the agent's, or that there is none.
func post(ctx context.Context, socket string, body []byte) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://weir"+api.CNIPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("its agent does not answer on %s: %w", socket, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	var answer api.CNIResponse
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("its agent on %s answers %s: %w", socket, resp.Status, err)
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}
