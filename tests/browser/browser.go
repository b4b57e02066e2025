// SPDX-License-Identifier: Apache-2.0

// Package browser opens pages in a headless Chromium for tests, and keeps account of what
// they ask for and complain of.
package browser

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

const (
	// patience is how long the page may take for what is awaited.
	patience = 60 * time.Second
	// lifetime bounds a page's.
	lifetime = 5 * time.Minute
)

// Device is what a page is looked at with.
type Device struct {
	Width, Height int64
	// Mobile is true for a phone.
	Mobile bool
	// Dark is the wish of its user.
	Dark bool
}

// Page is an open page.
type Page struct {
	tb  testing.TB
	ctx context.Context

	mu         sync.Mutex
	hosts      []string
	complaints []string
}

// Open opens a page in a browser of its own until the test ends. The browser runs in the
// namespaces of the caller's thread.
func Open(tb testing.TB, address string, d Device) *Page {
	tb.Helper()
	ctx, cancelTime := context.WithTimeout(context.Background(), lifetime)
	// The sandbox of Chromium refuses to be root's.
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.NoSandbox, chromedp.DisableGPU)
	ctx, cancelBrowser := chromedp.NewExecAllocator(ctx, options...)
	ctx, cancel := chromedp.NewContext(ctx)
	tb.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			tb.Errorf("closing the browser: %v", err)
		}
		cancel()
		cancelBrowser()
		cancelTime()
	})
	p := &Page{tb: tb, ctx: ctx}
	if err := chromedp.Listen(ctx, p.note); err != nil {
		tb.Fatalf("starting the browser: %v", err)
	}
	p.emulate(d)
	if err := chromedp.Do(ctx, chromedp.Navigate(address)); err != nil {
		tb.Fatalf("opening %s: %v", address, err)
	}
	return p
}

func (p *Page) emulate(d Device) {
	p.tb.Helper()
	scheme := "light"
	if d.Dark {
		scheme = "dark"
	}
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, media); err != nil {
		p.tb.Fatal(err)
	}
	var options []chromedp.EmulateViewportOption
	if d.Mobile {
		options = append(options, chromedp.EmulateMobile)
	}
	if err := chromedp.Do(p.ctx, chromedp.EmulateViewport(d.Width, d.Height, options...)); err != nil {
		p.tb.Fatal(err)
	}
}

// note is called with each event of the browser, and must be quick.
func (p *Page) note(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		host := e.Request.URL
		if u, err := url.Parse(e.Request.URL); err == nil {
			host = u.Host
		}
		p.hosts = append(p.hosts, host)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			p.complaints = append(p.complaints, fmt.Sprintf("%s %s", e.Entry.Text, e.Entry.URL))
		}
	case *runtime.EventExceptionThrown:
		p.complaints = append(p.complaints, fmt.Sprintf("%s: %s", e.ExceptionDetails.Text, e.ExceptionDetails.Exception.Description))
	case *runtime.EventConsoleAPICalled:
		p.complaints = append(p.complaints, fmt.Sprintf("console.%s", e.Type))
	}
}

// Hosts are those, with ports, that the page has sent requests to.
func (p *Page) Hosts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	hosts := slices.Clone(p.hosts)
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// Complaints are the warnings and errors in the browser's console.
func (p *Page) Complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.complaints)
}

// Eval is the value of an expression in the page.
func Eval[T any](p *Page, expression string) T {
	p.tb.Helper()
	value, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.tb.Fatalf("%s: %v", expression, err)
	}
	return value
}

// Await waits until an expression is true in the page.
func (p *Page) Await(expression string) {
	p.tb.Helper()
	for began := time.Now(); !Eval[bool](p, expression); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > patience {
			p.tb.Fatalf("waited %s in vain for %s; the page says:\n%s", patience, expression, Eval[string](p, "document.body.innerText"))
		}
	}
}

// Press types keys where the focus is.
func (p *Page) Press(keys string) {
	p.tb.Helper()
	if err := chromedp.Do(p.ctx, chromedp.KeyEvent(keys)); err != nil {
		p.tb.Fatalf("pressing %q: %v", keys, err)
	}
}

// Picture writes what is seen of the page to a PNG file.
func (p *Page) Picture(dir, name string) {
	p.tb.Helper()
	picture, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name), picture, 0o600)
	}
	if err != nil {
		p.tb.Errorf("taking a picture: %v", err)
	}
}
