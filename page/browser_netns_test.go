// SPDX-License-Identifier: Apache-2.0

//go:build netns

package page

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/tests/browser"
)

var (
	desktop = browser.Device{Width: 1280, Height: 900}
	phone   = browser.Device{Width: 390, Height: 844, Mobile: true, Dark: true}
)

type object = map[string]any

// agent answers as an agent does.
type agent struct {
	*httptest.Server

	mu          sync.Mutex
	attachments []object
	drops       []object
	broken      bool
}

func newAgent(t *testing.T, attachments, drops []object) *agent {
	t.Helper()
	a := &agent{attachments: attachments, drops: drops}
	mux := http.NewServeMux()
	if err := Handle(mux); err != nil {
		t.Fatal(err)
	}
	mux.HandleFunc("GET /v1/attachments", func(w http.ResponseWriter, _ *http.Request) { a.answer(w, a.attachments) })
	mux.HandleFunc("GET /v1/drops", func(w http.ResponseWriter, _ *http.Request) { a.answer(w, a.drops) })
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version":"v1.2.3"}`) })
	a.Server = httptest.NewServer(Guard(mux))
	t.Cleanup(a.Close)
	return a
}

func (a *agent) answer(w http.ResponseWriter, items []object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken {
		http.Error(w, "broken", http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(object{"apiVersion": "weir/v1", "items": append([]object{}, items...)})
}

// change changes what the agent answers.
func (a *agent) change(how func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	how()
}

func attached(pod, ifname string, fields object) object {
	o := object{
		"containerID": "0123456789abcdef" + ifname, "interface": ifname, "pod": object{"namespace": "shop", "name": pod}, "network": "shop/lan",
		"type": "macvlan", "mode": "bridge", "master": "eth1", "mac": "02:00:00:00:00:01", "addresses": []string{"192.0.2.1/24", "2001:db8::1/64"},
		"hook": "tcx", "created": "2026-01-02T03:04:05Z", "receive": counts(0, 0), "transmit": counts(0, 0), "dropped": []object{},
	}
	for key, value := range fields {
		o[key] = value
	}
	return o
}

func counts(packets, bytes uint64) object { return object{"packets": packets, "bytes": bytes} }

func checkQuiet(t *testing.T, p *browser.Page, a *agent) {
	t.Helper()
	if diff := cmp.Diff([]string{strings.TrimPrefix(a.URL, "http://")}, p.Hosts()); diff != "" {
		t.Errorf("requests went elsewhere (-want +got):\n%s", diff)
	}
	if complaints := p.Complaints(); len(complaints) > 0 {
		t.Errorf("the console says %q", complaints)
	}
}

// contrasts are the texts whose colour is less than 4.5 times as bright or dark as what is
// behind them (WCAG 2.2, 1.4.3).
const contrasts = `(() => {
	const rgb = (c) => c.match(/[\d.]+/g).map(Number);
	const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
	return [...document.body.querySelectorAll("*")]
		.filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
		.map((e) => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x); return [e.textContent.trim(), (a + 0.05) / (b + 0.05)]; })
		.filter(([, ratio]) => ratio < 4.5).map(([text, ratio]) => text + " " + ratio.toFixed(2));
})()`

// places are the columns and rows in which the parts of an attachment are, without its details.
const places = `(() => {
	const at = [...document.querySelectorAll(".attachment")[0].children].slice(0, 4).map((e) => e.getBoundingClientRect());
	const order = (list, v) => [...new Set(list)].sort((a, b) => a - b).indexOf(v);
	return at.map((r) => order(at.map((o) => o.left), r.left) + "," + order(at.map((o) => o.top), r.top)).join(" ");
})()`

// placesOn has all side by side where there is room; else the name comes first, and the drops
// last.
func placesOn(d browser.Device) string {
	if d.Mobile {
		return "0,0 0,1 1,1 0,2"
	}
	return "0,0 1,0 2,0 3,0"
}

// unnamed are the controls and pictures without a name.
const unnamed = `[...document.querySelectorAll("input, select, button, svg[role=img], summary, img:not([alt=''])")]
	.filter((e) => e.checkVisibility() && !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim())).map((e) => e.outerHTML)`

// Everything that the page can show is there, readable on both kinds of device, and fits.
func TestBrowserShowsWhatThereIs(t *testing.T) {
	deny := object{"direction": "egress", "rule": "no-dns", "action": "deny", "packets": 7, "bytes": 700}
	all := []object{
		attached("web", "net1", object{"dropped": []object{{"direction": "egress", "reason": "spoofed_ipv4", "packets": 13, "bytes": 1000}}, "rules": []object{deny}}),
		attached("a-pod-with-a-name-that-is-as-long-as-they-come-in-clusters-7f9c5d8b4-x2lqp", "eth-stream0", object{"hook": "gone"}),
		attached("plain", "net2", object{"hook": ""}),
		attached("", "net3", object{"pod": object{}}),
	}
	drops := []object{
		{"time": "2026-01-02T03:04:05.678Z", "containerID": "x", "interface": "net1", "pod": object{"namespace": "shop", "name": "web"}, "network": "shop/lan",
			"direction": "egress", "reason": "spoofed_ipv4", "length": 98, "description": "203.0.113.7.1234 > 192.0.2.1.53 UDP"},
		{"time": "2026-01-02T03:04:06Z", "containerID": "x", "interface": "net1", "pod": object{"namespace": "shop", "name": "web"}, "network": "shop/lan",
			"direction": "ingress", "reason": "denied", "rule": "no-dns", "length": 60, "description": "1 bytes of an Ethernet header"},
	}
	a := newAgent(t, all, drops)
	for _, d := range []browser.Device{desktop, phone, {Width: 320, Height: 640, Mobile: true}, {Width: 1920, Height: 1080, Dark: true}} {
		t.Run(fmt.Sprintf("%d", d.Width), func(t *testing.T) {
			p := browser.Open(t, a.URL, d)
			p.Await(`document.querySelectorAll(".attachment").length === 4 && document.querySelectorAll(".drop").length === 2`)
			p.Await(`document.querySelector("[data-is=receive]").textContent !== "–"`)
			text := browser.Eval[string](p, `document.body.innerText`)
			for _, want := range []string{"v1.2.3", "shop/\u200bweb", "net1", "shop/lan", "192.0.2.1, 2001:db8::1", "egress spoofed_ipv4 13", "its interface is gone",
				"not guarded", "container \u200b0123456789ab", "203.0.113.7.1234 > 192.0.2.1.53 UDP, 98 bytes", "denied no-dns", "1 bytes of an Ethernet header, 60 bytes"} {
				if !strings.Contains(strings.ReplaceAll(text, "\u200b", ""), strings.ReplaceAll(want, "\u200b", "")) {
					t.Errorf("%q is not in the page:\n%s", want, text)
				}
			}
			if low := browser.Eval[[]string](p, contrasts); len(low) > 0 {
				t.Errorf("texts of too little contrast: %q", low)
			}
			if without := browser.Eval[[]string](p, unnamed); len(without) > 0 {
				t.Errorf("without a name: %q", without)
			}
			if wide := browser.Eval[int](p, `document.documentElement.scrollWidth`); wide > int(d.Width) {
				t.Errorf("the page is %d wide", wide)
			}
			if got := browser.Eval[string](p, places); got != placesOn(d) {
				t.Errorf("the parts of an attachment are at %s, want %s", got, placesOn(d))
			}
			if dark := browser.Eval[string](p, `getComputedStyle(document.body).backgroundColor`) == "rgb(17, 22, 28)"; dark != d.Dark {
				t.Errorf("dark is %t, want %t", dark, d.Dark)
			}
			checkQuiet(t, p, a)
		})
	}
}

// Names are text, whatever they are: neither elements nor scripts.
func TestBrowserTakesNamesForText(t *testing.T) {
	const evil = `<img src="http://192.0.2.9/x" onerror="document.title='taken'"><script>document.title='taken'</script><b>&amp;`
	drop := object{"time": "2026-01-02T03:04:05Z", "containerID": evil, "interface": evil, "pod": object{"namespace": evil, "name": evil}, "network": evil,
		"direction": evil, "reason": evil, "rule": evil, "length": 1, "description": evil}
	a := newAgent(t, []object{attached(evil, "net1", object{
		"network": evil, "type": evil, "mode": evil, "master": evil, "mac": evil, "addresses": []string{evil}, "hook": evil, "isolation": evil, "created": evil,
		"dropped": []object{{"direction": evil, "reason": evil, "packets": 1, "bytes": 1}}, "rules": []object{{"direction": evil, "rule": evil, "action": evil, "packets": 1, "bytes": 1}},
	})}, []object{drop})
	p := browser.Open(t, a.URL, desktop)
	p.Await(`document.querySelectorAll(".attachment").length === 1`)
	if found := browser.Eval[int](p, `document.querySelectorAll("main img, main script, main b b").length`); found > 0 {
		t.Errorf("%d elements were made of names", found)
	}
	if text := browser.Eval[string](p, `document.querySelector("[data-is=pod]").textContent`); text != evil {
		t.Errorf("the name is shown as %q", text)
	}
	if title := browser.Eval[string](p, `document.title`); title != "weir" {
		t.Errorf("the title is %q", title)
	}
	checkQuiet(t, p, a)
}

// Rates follow the counters: of one that was there from its second reading on, of a new one
// from zero.
func TestBrowserWorksRatesOut(t *testing.T) {
	a := newAgent(t, []object{attached("web", "net1", object{"receive": counts(1000, 1000000)})}, nil)
	p := browser.Open(t, a.URL, desktop)
	rate := func(pod, what string) string {
		return fmt.Sprintf(`[...document.querySelectorAll(".attachment")].find((e) => e.querySelector("[data-is=pod]").textContent === %q)?.querySelector("[data-is=%s]").textContent`, pod, what)
	}
	p.Await(rate("web", "receive") + ` === "0 b/s"`)
	a.change(func() {
		a.attachments = []object{attached("web", "net1", object{"receive": counts(1100, 2000000)}), attached("new", "net1", object{"containerID": "f", "transmit": counts(50, 500000)})}
	})
	// About two seconds lie between two readings, on a machine that is not idle more.
	p.Await(rate("web", "receive") + `?.endsWith(" Mb/s")`)
	p.Await(rate("new", "send") + `?.match(/ [kM]b.s$/) !== null`)
	p.Await(rate("web", "receive") + ` === "0 b/s"`)
	if points := browser.Eval[[]string](p, `[...document.querySelectorAll(".receive polyline")].at(-1).getAttribute("points").split(" ").map((p) => p.split(",")[1])`); !slices.Contains(points, "1.00") || !slices.Contains(points, "19.00") {
		t.Errorf("the graph is of %q: want its greatest rate at the top, and none at the bottom", points)
	}
	// The same interface made anew is another, whose counters began at zero.
	a.change(func() {
		a.attachments = []object{attached("web", "net1", object{"created": "2027-01-02T03:04:05Z", "receive": counts(1, 1000000)})}
	})
	p.Await(rate("web", "receive") + `?.endsWith(" Mb/s")`)
	p.Await(`document.querySelectorAll(".attachment").length === 1`)
	checkQuiet(t, p, a)
}

// A full node is shown whole, goes on, and is searched.
func TestBrowserShowsAThousand(t *testing.T) {
	crowd := func(packets uint64) (all []object) {
		for i := range 1000 {
			all = append(all, attached(fmt.Sprintf("pod-%d", i), "net1", object{"containerID": fmt.Sprint(i), "receive": counts(packets, 100*packets)}))
		}
		return all
	}
	a := newAgent(t, crowd(0), nil)
	p := browser.Open(t, a.URL, desktop)
	p.Await(`document.querySelectorAll(".attachment").length === 1000`)
	a.change(func() { a.attachments = crowd(1000) })
	p.Await(`document.getElementById("receive").textContent.endsWith(" Mb/s") && document.querySelectorAll("[data-is=receive]").length === 1000`)
	for filter, shown := range map[string]int{"pod-999": 1, "pod-99": 11, "": 1000} {
		took := browser.Eval[float64](p, fmt.Sprintf(`(() => {
			const filter = document.getElementById("filter"), began = performance.now();
			filter.value = %q;
			filter.dispatchEvent(new Event("input"));
			return performance.now() - began;
		})()`, filter))
		if got := browser.Eval[int](p, `document.querySelectorAll("#attachments .attachment").length`); got != shown {
			t.Errorf("%q shows %d, want %d", filter, got, shown)
		}
		t.Logf("%q: %.0f ms", filter, took)
	}
	checkQuiet(t, p, a)
}

// The keyboard alone is enough: for the filter, the order and the details.
func TestBrowserObeysTheKeyboard(t *testing.T) {
	a := newAgent(t, []object{attached("web", "net1", nil), attached("db", "net2", object{"dropped": []object{{"direction": "egress", "reason": "spoofed_mac", "packets": 1, "bytes": 60}}})}, nil)
	p := browser.Open(t, a.URL, desktop)
	const pods = `[...document.querySelectorAll("#attachments [data-is=pod]")].map((e) => e.textContent).join()`
	p.Await(pods + ` === "db,web"`)
	p.Press("\t")
	p.Press("WEB\r")
	p.Await(pods + ` === "web"`)
	p.Press("x")
	p.Await(`!document.getElementById("none").hidden`)
	p.Press("\b\b\b\b")
	p.Await(pods + ` === "db,web"`)
	p.Press("\t")
	p.Press("r")
	p.Await(`document.getElementById("sort").value === "receive"`)
	p.Press("\t\r")
	p.Await(`document.querySelector("details").open && document.activeElement.matches("summary")`)
	if outline := browser.Eval[string](p, `getComputedStyle(document.activeElement).outlineStyle`); outline != "solid" {
		t.Errorf("the focus is shown by an outline that is %s", outline)
	}
	checkQuiet(t, p, a)
}

// A page that has nothing to show says so, and so does one whose agent is gone.
func TestBrowserSaysWhatIsMissing(t *testing.T) {
	a := newAgent(t, nil, nil)
	p := browser.Open(t, a.URL, phone)
	p.Await(`document.getElementById("none").textContent.startsWith("No pod of this node")`)
	checkQuiet(t, p, a)
	a.change(func() { a.broken = true })
	p.Await(`document.getElementById("state").textContent.includes("does not answer since") && document.getElementById("state").textContent.includes("500")`)
	said := browser.Eval[string](p, `document.getElementById("state").textContent`)
	time.Sleep(3 * time.Second) // another reading
	if again := browser.Eval[string](p, `document.getElementById("state").textContent`); again != said {
		t.Errorf("it says %q, and later %q", said, again)
	}
	a.change(func() { a.broken = false })
	p.Await(`document.getElementById("state").textContent === "Live"`)
}
