// SPDX-License-Identifier: Apache-2.0

package bugreport

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/doctor"
	"github.com/weir-cni/weir/drops"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/state"
)

// askTimeout bounds each question to the agent.
const askTimeout = 10 * time.Second

// collector reads a node.
type collector struct {
	ctx context.Context
	Options
}

func (c *collector) subjects() []subject {
	return []subject{
		{"versions.txt", "versions of weir, the kernel and the system", c.versions},
		{"doctor.json", "what weirctl doctor finds", c.diagnosis},
		{"attachments.json", "the attachments and their counters, as weirctl get has them", c.attachments},
		{"drops.json", "the last drops of each attachment, without what they carried", c.drops},
		{"metrics.txt", "what the agent tells Prometheus", c.metrics},
		{"pins.json", "programs, maps and links that are pinned", c.pins},
		{"kernel-config.txt", "the kernel's configuration of what weir uses", kernelConfig},
		{"configurations.txt", "names of the files beside the runtime's configuration", c.names},
	}
}

// files are the records and the runtime's configurations, one part for each.
func (c *collector) files() []subject {
	var all []subject
	records, _ := state.Read(c.recordsDir()) // what cannot be read is told by doctor
	for _, r := range records {
		all = append(all, subject{"records/" + r.Key() + ".json", "the record of a sandbox, redacted", func() ([]byte, error) {
			data, err := json.Marshal(r)
			if err != nil {
				return nil, err
			}
			return redactJSON(data)
		}})
	}
	for _, extension := range []string{"*.conf", "*.conflist", "*.json"} {
		paths, _ := filepath.Glob(filepath.Join(c.ConfDir, extension)) // errs for patterns alone
		for _, path := range paths {
			all = append(all, subject{"cni/" + filepath.Base(path), "a configuration of the runtime's, redacted", func() ([]byte, error) {
				return redactFile(path)
			}})
		}
	}
	return all
}

// fileMax bounds what is read of a file, in bytes.
const fileMax = 2 << 20

func redactFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > fileMax {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, fileMax)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return redactJSON(data)
}

func (c *collector) recordsDir() string { return filepath.Join(c.StateDir, state.RecordsDir) }

func (c *collector) versions() ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.ctx, askTimeout)
	defer cancel()
	agent, err := inspect.Version(ctx, c.Socket)
	if err != nil {
		agent = err.Error()
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "weirctl %s\nagent %s\nkernel %s\nsystem %s\nmachine %s, %d processors\ntime %s\n",
		c.Version, agent, kernelRelease(), system(), runtime.GOARCH, runtime.NumCPU(), c.Now.UTC().Format(time.RFC3339))
	return b.Bytes(), nil
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err.Error()
	}
	return unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Version[:])
}

// system is the name of the distribution, which a container of nothing but weir has not.
func system() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(data)) {
		if name, found := strings.CutPrefix(line, "PRETTY_NAME="); found {
			return strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	return "unknown"
}

func (c *collector) diagnosis() ([]byte, error) {
	return indent(doctor.Examine(c.ctx, c.Options.Options))
}

func (c *collector) attachments() ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.ctx, askTimeout)
	defer cancel()
	list, err := inspect.FromAgent(ctx, c.Socket)
	if errors.Is(err, inspect.ErrNoAgent) {
		list, _ = inspect.FromPins(c.recordsDir(), c.BPFDir) // what cannot be read is told by doctor
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return indent(list)
}

// drops are a line for each packet: its bytes are the pod's own affair.
func (c *collector) drops() ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.ctx, askTimeout)
	defer cancel()
	list, err := inspect.Drops(ctx, c.Socket, drops.Filter{}, -1)
	if err != nil {
		return nil, err
	}
	drops.Summarize(list.Items)
	return indent(list)
}

func (c *collector) metrics() ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.ctx, askTimeout)
	defer cancel()
	return inspect.Metrics(ctx, c.Socket)
}

// pinned is one directory of pins.
type pinned struct {
	Dir      string           `json:"dir"`
	Metadata *loader.Metadata `json:"metadata,omitempty"`
	Pins     []loader.Pin     `json:"pins"`
	Problem  string           `json:"problem,omitempty"`
}

func (c *collector) pins() ([]byte, error) {
	entries, err := os.ReadDir(c.BPFDir)
	if err != nil {
		return nil, err
	}
	list := struct {
		APIVersion string   `json:"apiVersion"`
		Items      []pinned `json:"items"`
	}{api.Version, []pinned{}}
	for _, entry := range entries {
		dir := filepath.Join(c.BPFDir, entry.Name())
		p := pinned{Dir: dir, Pins: []loader.Pin{}}
		pins, err := loader.Pins(dir)
		p.Pins = append(p.Pins, pins...)
		if err == nil && entry.Name() != loader.RingDir {
			p.Metadata, err = loader.ReadMetadata(dir)
		}
		if err != nil {
			p.Problem = err.Error()
		}
		list.Items = append(list.Items, p)
	}
	return indent(list)
}

func (c *collector) names() ([]byte, error) {
	entries, err := os.ReadDir(c.ConfDir)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, entry := range entries {
		fmt.Fprintln(&b, entry.Name())
	}
	return b.Bytes(), nil
}

// relevant are the settings of a kernel that weir depends on.
var relevant = regexp.MustCompile(`^(# )?CONFIG_(BPF|NET_CLS|NET_SCH_INGRESS|NET_XGRESS|NETKIT|MACVLAN|IPVLAN|VETH|BRIDGE|VLAN_8021Q|DEBUG_INFO_BTF|CGROUP_BPF|NET_NS|VFIO)\w*[= ]`)

func kernelConfig() ([]byte, error) {
	config, err := openConfig()
	if err != nil {
		return nil, err
	}
	defer config.Close()
	var b bytes.Buffer
	lines := bufio.NewScanner(config)
	for lines.Scan() {
		if relevant.Match(lines.Bytes()) {
			fmt.Fprintln(&b, lines.Text())
		}
	}
	return b.Bytes(), lines.Err()
}

// openConfig opens the kernel's configuration: its own copy, or the distribution's.
func openConfig() (io.ReadCloser, error) {
	if f, err := os.Open("/proc/config.gz"); err == nil {
		return gzip.NewReader(f)
	}
	release, _, _ := strings.Cut(kernelRelease(), " ")
	return os.Open("/boot/config-" + release)
}

func indent(value any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(value)
	return b.Bytes(), err
}
