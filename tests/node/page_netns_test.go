// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/page"
	"github.com/weir-cni/weir/tests/browser"
)

var pagePictures = flag.String("page-pictures", "", "a folder for pictures of the agent's page")

const pageAddress = "127.0.0.1:9452"

// newPagedNode makes a node whose agent serves its page on pageAddress.
func newPagedNode(t *testing.T) *Node {
	t.Helper()
	n := newIdleNode(t)
	n.flags = []string{"--page-address", pageAddress}
	n.Start()
	return n
}

// forward has a port of this machine lead into the node, as ssh -L has.
func (n *Node) forward(network, address string) (local string) {
	n.tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.tb.Fatal(err)
	}
	n.tb.Cleanup(func() { listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := n.dialInNode(context.Background(), network, address)
			if err != nil {
				_ = from.Close()
				continue
			}
			go join(from, to)
		}
	}()
	return listener.Addr().String()
}

// join copies until either end closes.
func join(a, b net.Conn) {
	var once sync.WaitGroup
	for _, ends := range [][2]net.Conn{{a, b}, {b, a}} {
		once.Go(func() {
			_, _ = io.Copy(ends[0], ends[1])
			_, _ = a.Close(), b.Close()
		})
	}
	once.Wait()
}

// The page shows a pod's attachment, rates that follow its traffic, and why packets were
// dropped, to a desktop and to a phone; its numbers are weirctl's. It asks nobody but the
// agent, also when that was away for a while.
func TestBrowserShowsTheNode(t *testing.T) {
	n := newPagedNode(t)
	n.Network("lan", static())
	pod := n.Pod("web", selection)
	n.mustAdd(pod)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wait := n.flood(ctx, n.outside, 20*time.Millisecond)
	spoof := spoofsOf(t, pod.Link("net1").Attrs().HardwareAddr)[1].frame
	pod.Send("net1", spoof, spoof, spoof)

	local := n.forward("tcp", pageAddress)
	open := func(name string, d browser.Device) *browser.Page {
		p := browser.Open(t, "http://"+local, d)
		p.Await(`document.querySelector("#attachments [data-is=pod]")?.textContent === "web"`)
		p.Await(`document.querySelector(".receive polyline").getAttribute("points").split(" ").length > 4`)
		p.Await(`parseFloat(document.querySelector("[data-is=receive]").textContent) > 0 && parseFloat(document.querySelector("[data-is=send]").textContent) > 0`)
		if *pagePictures != "" {
			p.Picture(*pagePictures, name+".png")
		}
		return p
	}
	open("phone-dark", browser.Device{Width: 390, Height: 844, Mobile: true, Dark: true})
	p := open("desktop-light", browser.Device{Width: 1280, Height: 800})
	text := browser.Eval[string](p, `document.getElementById("attachments").innerText`)
	for _, want := range []string{n.namespace + "/", "web", "net1", n.namespace + "/lan", podAddress, "egress spoofed_ipv4 3"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	p.Await(fmt.Sprintf(`document.querySelectorAll(".drop").length === 3 && document.querySelector(".drop").innerText.includes(%q)`, n.namespace+"/web net1"))
	if last := browser.Eval[string](p, `document.querySelector(".drop").innerText`); !strings.Contains(last, "spoofed_ipv4 egress") || !strings.Contains(last, " UDP, ") {
		t.Errorf("the last drop is shown as %q", last)
	}
	cancel()
	if _, _, err := wait(); err != nil {
		t.Error(err)
	}
	p.Await(`document.querySelector("[data-is=receive-packets]").textContent === "0 packets/s"`)
	a := n.Attachment(pod, "net1")
	for name, c := range map[string]api.Traffic{"Received": a.Receive, "Sent": a.Transmit} {
		p.Await(fmt.Sprintf(`[...document.querySelectorAll("details dt")].find((e) => e.textContent === %q).nextSibling.textContent.replaceAll(",", "") === "%d packets %d bytes"`, name, c.Packets, c.Bytes))
	}
	if diff := cmp.Diff([]string{local}, p.Hosts()); diff != "" {
		t.Errorf("requests went elsewhere (-want +got):\n%s", diff)
	}
	if complaints := p.Complaints(); len(complaints) > 0 {
		t.Errorf("the console says %q", complaints)
	}

	n.Kill()
	p.Await(`document.getElementById("state").textContent.includes("does not answer")`)
	n.Start()
	p.Await(`document.getElementById("state").textContent === "Live"`)
	n.mustDel(pod)
	p.Await(`document.querySelectorAll(".attachment").length === 0`)
	if diff := cmp.Diff([]string{local}, p.Hosts()); diff != "" {
		t.Errorf("requests went elsewhere (-want +got):\n%s", diff)
	}
}

// Who comes to the page, by its address or by the socket, reads and does nothing else; a
// site that has come to mean this machine gets nothing.
func TestNetnsThePageIsForReading(t *testing.T) {
	n := newPagedNode(t)
	for where, dial := range map[string][2]string{"address": {"tcp", pageAddress}, "socket": {"unix", n.socket()}} {
		for _, test := range []struct {
			method, host, path, origin string
			want                       int
		}{
			{method: "GET", host: "localhost:9452", path: "/", want: http.StatusOK},
			{method: "GET", host: "127.0.0.1:9452", path: api.AttachmentsPath, want: http.StatusOK},
			{method: "GET", host: "localhost", path: api.VersionPath, want: http.StatusOK},
			{method: "GET", host: "localhost", path: api.DropsPath + "?follow=true", want: http.StatusOK},
			{method: "GET", host: "rebound.example", path: "/", want: http.StatusMisdirectedRequest},
			{method: "GET", host: "rebound.example", path: api.AttachmentsPath, want: http.StatusMisdirectedRequest},
			{method: "GET", host: "localhost", path: api.LogLevelPath, want: http.StatusNotFound},
			{method: "GET", host: "localhost", path: api.MetricsPath, want: http.StatusNotFound},
			{method: "POST", host: "localhost", path: api.CNIPath, origin: "http://rebound.example", want: http.StatusMethodNotAllowed},
			{method: "POST", host: "rebound.example", path: api.CNIPath, want: http.StatusMisdirectedRequest},
			{method: "POST", host: api.Host, path: api.CNIPath, origin: "http://" + api.Host, want: http.StatusMisdirectedRequest},
			{method: "PUT", host: "localhost", path: api.LogLevelPath, want: http.StatusMethodNotAllowed},
		} {
			name := fmt.Sprintf("%s: %s %s of %s", where, test.method, test.path, test.host)
			status, header := n.request(t, dial, test.method, test.host, test.path, test.origin)
			if status != test.want {
				t.Errorf("%s: %d, want %d", name, status, test.want)
			}
			if header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: other sites may read it", name)
			}
		}
	}
	// The plugin's name is no leave on the address.
	if status, _ := n.request(t, [2]string{"tcp", pageAddress}, "POST", api.Host, api.CNIPath, ""); status != http.StatusMisdirectedRequest {
		t.Errorf("by the plugin's name: %d", status)
	}
}

// request is the status and the header of the answer.
func (n *Node) request(t *testing.T, dial [2]string, method, host, path, origin string) (int, http.Header) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.dialInNode(ctx, dial[0], dial[1])
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+path, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header
}

// An agent does not start with a page that others can reach, and says why.
func TestNetnsThePageIsOnLoopbackAlone(t *testing.T) {
	n := newIdleNode(t)
	for _, address := range []string{"0.0.0.0:9452", ":9452", "192.168.122.2:9452", "[::]:9452"} {
		n.flags = []string{"--page-address", address}
		cmd := n.command()
		p, err := launch(n.machine, cmd, nil)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.done:
		case <-time.After(startPatience):
			t.Fatalf("%s: the agent runs", address)
		}
		if code := cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("%s: the agent ended with %d", address, code)
		}
		if want := page.ErrNotLoopback.Error(); !strings.Contains(string(n.readLog()), address+": "+want) {
			t.Errorf("%s: the agent does not say %q:\n%s", address, want, n.readLog())
		}
	}
}
