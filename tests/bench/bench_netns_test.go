// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/tests/lan"
)

const (
	reference = "github.com/containernetworking/plugins/plugins/"
	weir      = "github.com/weir-cni/weir/cmd/"
)

// site is a node with the plugins and an agent.
type site struct {
	b       *testing.B
	node    *lan.Host
	dir     string
	bpfDir  string
	sandbox int
}

func newSite(b *testing.B) *site {
	b.Helper()
	s := &site{b: b, node: lan.NewHost(b), dir: b.TempDir(), bpfDir: fmt.Sprintf("/sys/fs/bpf/weir-bench-%d", os.Getpid())}
	lan.Join(b, s.node, "eth1", lan.NewHost(b), "eth0")
	s.build(reference+"main/macvlan", reference+"ipam/host-local", weir+"weir", weir+"weir-agent")
	if err := loader.EnsureFilesystem(s.bpfDir); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(s.bpfDir) })
	s.startAgent()
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) build(packages ...string) {
	s.b.Helper()
	args := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", s.dir + "/"}, packages...)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.b.Fatalf("building: %v: %s", err, out)
	}
}

func (s *site) startAgent() {
	s.b.Helper()
	if err := os.MkdirAll(s.path("manifests"), 0o700); err != nil {
		s.b.Fatal(err)
	}
	s.write("manifests/all.yaml", fmt.Sprintf(`
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan, namespace: default}
spec:
  config: '%s'
---
apiVersion: v1
kind: Pod
metadata:
  name: pod
  namespace: default
  annotations: {k8s.v1.cni.cncf.io/networks: lan}
`, s.macvlan("lan")))
	log, err := os.Create(s.path("agent.log"))
	if err != nil {
		s.b.Fatal(err)
	}
	cmd := exec.Command(s.path("weir-agent"), "--standalone", "--manifests", s.path("manifests"), "--log-level", "debug",
		"--socket", s.path("weir.sock"), "--state-dir", s.path("state"), "--bpf-dir", s.bpfDir, "--cni-bin-dir", s.dir, "--metrics-address", "")
	cmd.Stderr = log
	s.node.Do(cmd.Start)
	s.b.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
	})
}

func (s *site) write(name, content string) {
	s.b.Helper()
	if err := os.WriteFile(s.path(name), []byte(content), 0o600); err != nil {
		s.b.Fatal(err)
	}
}

// macvlan is the network of both sides.
func (s *site) macvlan(name string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"%s","type":"macvlan","master":"eth1",`+
		`"ipam":{"type":"host-local","dataDir":"%s","subnet":"10.9.0.0/16"}}`, name, s.path("leases"))
}

// call executes a plugin as a runtime does, and says how long it took.
func (s *site) call(command, plugin, config string, pod *lan.Host, ifname, args string) time.Duration {
	s.b.Helper()
	var out bytes.Buffer
	cmd := exec.Command(s.path(plugin))
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + fmt.Sprintf("bench%d", s.sandbox), "CNI_NETNS=" + pod.Path(),
		"CNI_IFNAME=" + ifname, "CNI_PATH=" + s.dir, "CNI_ARGS=" + args,
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(config), &out, &out
	began := time.Now()
	s.node.Do(func() error {
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", command, plugin, err, out.Bytes())
		}
		return nil
	})
	return time.Since(began)
}

// side is one of what is compared: how it attaches a pod and takes it away.
type side struct {
	name     string
	add, del func(s *site, pod *lan.Host) time.Duration
}

func sides() []side {
	const podArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod"
	weirWith := func(args string) (add, del func(s *site, pod *lan.Host) time.Duration) {
		do := func(command string) func(s *site, pod *lan.Host) time.Duration {
			return func(s *site, pod *lan.Host) time.Duration {
				config := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"weir","type":"weir","socket":"%s","delegates":[%s]}`,
					s.path("weir.sock"), s.macvlan("default"))
				return s.call(command, "weir", config, pod, "eth0", args)
			}
		}
		return do("ADD"), do("DEL")
	}
	referenceOn := func(ifnames ...string) (add, del func(s *site, pod *lan.Host) time.Duration) {
		do := func(command string) func(s *site, pod *lan.Host) time.Duration {
			return func(s *site, pod *lan.Host) (took time.Duration) {
				for i, ifname := range ifnames {
					took += s.call(command, "macvlan", s.macvlan(fmt.Sprintf("ref%d", i)), pod, ifname, "")
				}
				return took
			}
		}
		return do("ADD"), do("DEL")
	}
	oneAdd, oneDel := referenceOn("eth0")
	weirOneAdd, weirOneDel := weirWith("")
	twoAdd, twoDel := referenceOn("eth0", "net1")
	weirTwoAdd, weirTwoDel := weirWith(podArgs)
	return []side{
		{"one_macvlan/reference", oneAdd, oneDel},
		{"one_macvlan/weir_unguarded", weirOneAdd, weirOneDel},
		{"two_macvlans/reference", twoAdd, twoDel},
		{"two_macvlans/weir_second_guarded", weirTwoAdd, weirTwoDel},
	}
}

// BenchmarkAddDel reports the medians of whole processes, each side's rounds
// alternating with the others' so that all meet the same noise.
func BenchmarkAddDel(b *testing.B) {
	s := newSite(b)
	all := sides()
	adds, dels := make([][]time.Duration, len(all)), make([][]time.Duration, len(all))
	for b.Loop() {
		for i, side := range all {
			s.sandbox++
			pod := lan.NewHost(b)
			adds[i] = append(adds[i], side.add(s, pod))
			time.Sleep(100 * time.Millisecond) // promotion to tcx is not on the path
			dels[i] = append(dels[i], side.del(s, pod))
			pod.Remove()
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, side := range all {
		fmt.Printf("%-34s ADD %7.2f ms   DEL %7.2f ms   (medians of %d)\n",
			side.name, milliseconds(median(adds[i])), milliseconds(median(dels[i])), len(adds[i]))
	}
	s.printSteps()
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

var stepLine = regexp.MustCompile(`msg=step step=(\w+) pod=default/pod network=default/lan netif=net1 took=(\S+)`)

// printSteps adds up the agent's own record of where the time of net1 went.
func (s *site) printSteps() {
	s.b.Helper()
	f, err := os.Open(s.path("agent.log"))
	if err != nil {
		s.b.Fatal(err)
	}
	defer f.Close()
	took := map[string][]time.Duration{}
	var order []string
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		m := stepLine.FindStringSubmatch(scanner.Text())
		if m == nil {
			continue
		}
		d, err := time.ParseDuration(m[2])
		if err != nil {
			s.b.Fatal(err)
		}
		if took[m[1]] == nil {
			order = append(order, m[1])
		}
		took[m[1]] = append(took[m[1]], d)
	}
	for _, step := range order {
		fmt.Printf("step %-29s %11.3f ms   (median of %d)\n", step, milliseconds(median(took[step])), len(took[step]))
	}
}
