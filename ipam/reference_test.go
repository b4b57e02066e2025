// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// referenceDir is where the reference plugins are once a test has asked for them.
var referenceDir atomic.Pointer[string]

// buildReference builds the reference plugins from the module that the allocator comes from.
var buildReference = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "weir-ipam-reference-")
	if err != nil {
		return "", err
	}
	referenceDir.Store(&dir)
	const plugins = "github.com/containernetworking/plugins/plugins/ipam/"
	out, err := exec.Command("go", "build", "-o", dir+"/", plugins+"static", plugins+"host-local").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the reference plugins: %w: %s", err, out)
	}
	return dir, nil
})

func reference(tb testing.TB, plugin string) string {
	tb.Helper()
	dir, err := buildReference()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, plugin)
}

// runReference returns what a reference plugin prints.
func runReference(binary, command, config, args string, req Request) (string, error) {
	var stdout, stderr bytes.Buffer
	c := exec.Command(binary)
	c.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + req.ContainerID, "CNI_IFNAME=" + req.IfName,
		"CNI_NETNS=/run/netns/none", "CNI_PATH=/nonexistent", "CNI_ARGS=" + args, "CNI_NETNS_OVERRIDE=1",
	}
	c.Stdin = strings.NewReader(config)
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%w: %s%s", err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// printed is the JSON of a result in the version of the configuration, as plugins print it.
func printed(tb testing.TB, result *current.Result, config string) string {
	tb.Helper()
	version, err := create.DecodeVersion([]byte(config))
	if err != nil {
		tb.Fatal(err)
	}
	converted, err := result.GetAsVersion(version)
	if err != nil {
		tb.Fatal(err)
	}
	out, err := json.MarshalIndent(converted, "", "    ")
	if err != nil {
		tb.Fatal(err)
	}
	return string(out)
}

func TestReferenceStatic(t *testing.T) {
	t.Parallel()
	binary := reference(t, "static")
	for _, tc := range slices.Concat(staticGood, staticBad) {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			want, refErr := runReference(binary, "ADD", tc.config, tc.args, request1("c"))
			if tc.sentinel != nil {
				if tc.lenient != (refErr == nil) {
					t.Errorf("the reference plugin: %v, %v", want, refErr)
				}
				return
			}
			if refErr != nil {
				t.Fatal(refErr)
			}
			got := printed(t, mustAdd(t, mustParse(t, tc.config, tc.args), request1("c")), tc.config)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("unexpected result (-reference +got):\n%s", diff)
			}
		})
	}
}

// The sources of addresses in every combination.
func TestReferenceStaticPrecedence(t *testing.T) {
	t.Parallel()
	binary := reference(t, "static")
	rapid.Check(t, func(rt *rapid.T) {
		next := 1
		draw := func(label string, least int) []string {
			var list []string
			for range rapid.IntRange(least, 3).Draw(rt, label) {
				next++
				list = append(list, rapid.SampledFrom([]string{"10.0.0.%d/24", "10.0.%d.1/16", "2001:db8::%d/64"}).Draw(rt, "form"))
				list[len(list)-1] = fmt.Sprintf(list[len(list)-1], next)
			}
			return list
		}
		var configured []addressConfig
		for _, address := range draw("configured", 1) {
			config := addressConfig{Address: address}
			if strings.HasPrefix(address, "10.") && rapid.Bool().Draw(rt, "gateway") {
				config.Gateway = "10.0.0.254"
			}
			configured = append(configured, config)
		}
		args := ""
		if ips := draw("CNI_ARGS", 0); len(ips) > 0 {
			args = "IP=" + strings.Join(ips, ",") + rapid.SampledFrom([]string{"", ";GATEWAY=10.0.0.254,2001:db8::ff"}).Draw(rt, "GATEWAY")
		}
		config, err := json.Marshal(map[string]any{
			"cniVersion": rapid.SampledFrom([]string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}).Draw(rt, "version"),
			"name":       "n", "type": "macvlan",
			"ipam":          map[string]any{"type": "static", "addresses": stripEmpty(configured)},
			"args":          map[string]any{"cni": map[string]any{"ips": draw("args.cni", 0)}},
			"runtimeConfig": map[string]any{"ips": draw("runtimeConfig", 0)},
		})
		if err != nil {
			rt.Fatal(err)
		}
		want, err := runReference(binary, "ADD", string(config), args, request1("c"))
		if err != nil {
			rt.Fatal(err)
		}
		got := printed(t, mustAdd(t, mustParse(t, string(config), args), request1("c")), string(config))
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("unexpected result (-reference +got):\n%s", diff)
		}
	})
}

func stripEmpty(configs []addressConfig) []map[string]string {
	var maps []map[string]string
	for _, config := range configs {
		m := map[string]string{"address": config.Address}
		if config.Gateway != "" {
			m["gateway"] = config.Gateway
		}
		maps = append(maps, m)
	}
	return maps
}

func TestReferenceHostLocal(t *testing.T) {
	t.Parallel()
	binary := reference(t, "host-local")
	for name, tc := range map[string]struct{ ipam, more, args string }{
		"own range":  {`,"subnet":"10.0.0.0/29"`, ``, ""},
		"with route": {`,"subnet":"10.0.0.0/29","routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.0.0.3","mtu":1400}]`, ``, ""},
		"all bounds": {`,"ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.11","gateway":"10.0.0.10"}]]`, ``, ""},
		"two ranges": {`,"ranges":[[{"subnet":"10.0.0.0/30"},{"subnet":"10.0.1.0/30"}],[{"subnet":"2001:db8::/126"}]]`, ``, ""},
		"ipRanges":   {`,"subnet":"10.0.0.0/30"`, `,"runtimeConfig":{"ipRanges":[[{"subnet":"10.0.1.0/29"}]]}`, ""},
		"request":    {`,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"2001:db8::/64"}]]`, `,"args":{"cni":{"ips":["2001:db8::9"]}}`, "IP=10.0.0.9/24"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := t.TempDir(), t.TempDir()
			p := mustParse(t, hostLocalJSON(ours, tc.ipam, tc.more), tc.args)
			config := hostLocalJSON(theirs, tc.ipam, tc.more)
			for i := range 8 {
				req := request1(fmt.Sprintf("c%d", i))
				want, refErr := runReference(binary, "ADD", config, tc.args, req)
				result, err := p.Add(t.Context(), req)
				if (err == nil) != (refErr == nil) {
					t.Fatalf("the reference plugin: %v; here: %v", refErr, err)
				}
				if err == nil {
					if diff := cmp.Diff(want, printed(t, result, config)); diff != "" {
						t.Errorf("unexpected result (-reference +got):\n%s", diff)
					}
				}
				if diff := cmp.Diff(files(t, theirs), files(t, ours)); diff != "" {
					t.Fatalf("unexpected files (-reference +got):\n%s", diff)
				}
			}
		})
	}
}

// files returns the content of the files of network n by their names.
func files(tb testing.TB, dataDir string) map[string]string {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Join(dataDir, "n"))
	if err != nil {
		tb.Fatal(err)
	}
	content := make(map[string]string)
	for _, entry := range entries {
		content[entry.Name()] = read(tb, filepath.Join(dataDir, "n"), entry.Name())
	}
	return content
}

// Each frees and checks what the other has reserved.
func TestReferenceHostLocalSharesReservations(t *testing.T) {
	t.Parallel()
	binary := reference(t, "host-local")
	dir := t.TempDir()
	config := hostLocalJSON(dir, `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"2001:db8::/64"}]]`, "")
	p := mustParse(t, config, "")
	mustAdd(t, p, request1("ours"))
	if _, err := runReference(binary, "ADD", config, "", request1("theirs")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10.0.0.2", "10.0.0.3", "2001:db8::2", "2001:db8::3"}, reserved(t, dir)); diff != "" {
		t.Errorf("unexpected reservations (-want +got):\n%s", diff)
	}
	if _, err := p.Add(t.Context(), request1("theirs")); !errors.Is(err, ErrReserved) {
		t.Errorf("want %v, got %v", ErrReserved, err)
	}
	if err := p.Check(t.Context(), request1("theirs")); err != nil {
		t.Error(err)
	}
	mustDel(t, p, request1("theirs"))
	if _, err := runReference(binary, "DEL", config, "", request1("ours")); err != nil {
		t.Fatal(err)
	}
	if left := reserved(t, dir); left != nil {
		t.Errorf("left after DEL: %v", left)
	}
}

func TestReferenceHostLocalConcurrently(t *testing.T) {
	t.Parallel()
	binary := reference(t, "host-local")
	dir := t.TempDir()
	config := hostLocalJSON(dir, `,"subnet":"10.0.0.0/26"`, "")
	plugins := []Plugin{mustParse(t, config, ""), mustParse(t, config, "")}
	l := &ledger{holders: map[string]string{}}
	errs := make([]error, 60)
	var wg sync.WaitGroup
	for i := range errs {
		req := request1(fmt.Sprintf("c%d", i))
		wg.Go(func() {
			if i%3 < 2 {
				errs[i] = worker(t.Context(), plugins[i%3], l, req.ContainerID, []bool{true, false, true, true})
				return
			}
			errs[i] = referenceWorker(binary, config, l, req)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if left := reserved(t, dir); left != nil {
		t.Errorf("left after DEL: %v", left)
	}
}

// referenceWorker adds and deletes an attachment with the reference plugin.
func referenceWorker(binary, config string, l *ledger, req Request) error {
	for range 2 {
		out, err := runReference(binary, "ADD", config, "", req)
		if err != nil {
			if strings.Contains(err.Error(), "no IP addresses available") {
				continue
			}
			return err
		}
		var result current.Result
		if err := json.Unmarshal([]byte(out), &result); err != nil {
			return err
		}
		if err := l.add(addresses(&result), req.ContainerID); err != nil {
			return err
		}
		l.remove(addresses(&result))
		if _, err := runReference(binary, "DEL", config, "", req); err != nil {
			return err
		}
	}
	return nil
}
