// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// binaries are the paths of what is tested.
type binaries struct{ weir, agent, ctl string }

func binariesIn(dir string) *binaries {
	return &binaries{
		weir:  filepath.Join(dir, "weir"),
		agent: filepath.Join(dir, "weir-agent"),
		ctl:   filepath.Join(dir, "weirctl"),
	}
}

func TestMain(m *testing.M) {
	if isPlugin() {
		playPlugin()
		return
	}
	if isIntruder() {
		os.Exit(playIntruder())
	}
	code := m.Run()
	if dir := builtInto(); dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

var (
	buildOnce = sync.OnceValues(build)
	builtDir  struct {
		sync.Mutex
		path string
	}
)

func builtInto() string {
	builtDir.Lock()
	defer builtDir.Unlock()
	return builtDir.path
}

// built returns the binaries, which the first caller builds.
func built(tb testing.TB) *binaries {
	tb.Helper()
	b, err := buildOnce()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

var otherOnce = sync.OnceValues(buildOther)

// otherAgent is an agent of another build: its programs are the same, and are not known
// to be.
func otherAgent(tb testing.TB) string {
	tb.Helper()
	path, err := otherOnce()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

func buildOther() (string, error) {
	if !hasGo() {
		return filepath.Abs("../../build/other/weir-agent")
	}
	if _, err := buildOnce(); err != nil {
		return "", err
	}
	dir := filepath.Join(builtInto(), "other")
	object, err := filepath.Abs("../../bpf/weir_bpfel.o")
	if err != nil {
		return "", err
	}
	programs, err := os.ReadFile(object)
	if err != nil {
		return "", err
	}
	other, overlay := filepath.Join(dir, "weir_bpfel.o"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{object: other}})
	if err != nil {
		return "", err
	}
	err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(other, append(programs, '\n'), 0o600), os.WriteFile(overlay, replace, 0o600))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "weir-agent"),
		goBuild(dir, "CGO_ENABLED=0", "-overlay", overlay, "github.com/weir-cni/weir/cmd/weir-agent")
}

// hasGo is false in a VM, whose processors are emulated: tests do less there.
func hasGo() bool {
	_, err := exec.LookPath("go")
	return err == nil
}

// fewer is n, or much less where all is slow.
func fewer(n int) int {
	if hasGo() {
		return n
	}
	return n / 5
}

func build() (*binaries, error) {
	if dir := os.Getenv("WEIR_BIN_DIR"); dir != "" {
		return binariesIn(dir), nil
	}
	if !hasGo() {
		dir, err := filepath.Abs("../../build")
		return binariesIn(dir), err
	}
	dir, err := os.MkdirTemp("", "weir-node-bin-")
	if err != nil {
		return nil, err
	}
	builtDir.Lock()
	builtDir.path = dir
	builtDir.Unlock()
	return binariesIn(dir), buildInto(dir)
}

// buildInto builds the small ones as they are released: they are started often.
func buildInto(dir string) error {
	const commands = "github.com/weir-cni/weir/cmd/"
	if err := goBuild(dir, "CGO_ENABLED=0", commands+"weir", commands+"weirctl"); err != nil {
		return err
	}
	if raced {
		return goBuild(dir, "CGO_ENABLED=1", "-race", commands+"weir-agent")
	}
	return goBuild(dir, "CGO_ENABLED=0", commands+"weir-agent")
}

var pluginsOnce = sync.OnceValues(buildPlugins)

// referencePlugins is the directory of the reference plugins, of the version that
// weir is compared with.
func referencePlugins(tb testing.TB) string {
	tb.Helper()
	dir, err := pluginsOnce()
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

func buildPlugins() (string, error) {
	if !hasGo() {
		return "/usr/lib/cni", nil
	}
	if _, err := buildOnce(); err != nil {
		return "", err
	}
	dir := filepath.Join(builtInto(), "plugins")
	const plugins = "github.com/containernetworking/plugins/plugins/"
	return dir, goBuild(dir, "CGO_ENABLED=0", plugins+"main/macvlan", plugins+"main/ipvlan", plugins+"main/bridge",
		plugins+"main/host-device", plugins+"ipam/static", plugins+"ipam/host-local", plugins+"meta/tuning",
		"github.com/containernetworking/cni/cnitool")
}

func goBuild(dir, env string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, args...)...)
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
