// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/page"
)

// handlePage serves the page, and what it asks for.
func (a *agent) handlePage(mux *http.ServeMux) error {
	mux.HandleFunc("GET "+api.AttachmentsPath, a.handleAttachments)
	mux.HandleFunc("GET "+api.VersionPath, a.handleVersion)
	return page.Handle(mux)
}

// pageForBrowsers is the page and nothing else.
func (a *agent) pageForBrowsers() (http.Handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.DropsPath, a.handlePageDrops)
	if err := a.handlePage(mux); err != nil {
		return nil, err
	}
	return page.Guard(mux), nil
}

// byClient gives the plugin and weirctl, who call the agent by its name, all that there is, and
// browsers the page. A user may have the socket forwarded to a port of his own machine, and
// any site that he visits can send requests there.
func byClient(all, browsers http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == api.Host && r.Header.Get("Origin") == "" {
			all.ServeHTTP(w, r)
			return
		}
		browsers.ServeHTTP(w, r)
	})
}

// servePage serves the page on an address of loopback.
func (a *agent) servePage(ctx context.Context, listener net.Listener) error {
	handler, err := a.pageForBrowsers()
	if err != nil {
		return err
	}
	a.log.Info("serving the page", "address", listener.Addr().String())
	return serve(ctx, listener, handler)
}

// validatePage refuses an address of the page that others than this machine can reach.
func (o *Options) validatePage() error {
	if o.PageAddress == "" {
		return nil
	}
	if err := page.ValidateAddress(o.PageAddress); err != nil {
		return fmt.Errorf("the address of the page: %w", err)
	}
	return nil
}
