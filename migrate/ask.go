// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/weir-cni/weir/inspect"
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
	request, err := json.Marshal(config)
	if err != nil {
		return err
	}
	own, _ := config["socket"].(string)
	return inspect.Status(ctx, cmp.Or(own, p.options.Socket), request, p.options.BinDir)
}
