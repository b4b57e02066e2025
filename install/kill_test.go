// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
)

// childDir is the variable that makes the test binary an agent, which installs over
// and over in the directory that it names.
const childDir = "WEIR_TEST_INSTALL_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		installForever(dir)
	}
	os.Exit(m.Run())
}

func optionsIn(dir string, version int) Options {
	return Options{
		Plugin: filepath.Join(dir, fmt.Sprintf("weir%d", version)),
		BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "net.d"),
		Settings: map[string]any{"socket": strings.Repeat("s", 10+3000*version)},
		Log:      slog.New(slog.DiscardHandler),
	}
}

// installForever installs two versions by turns, and executes something all the time,
// as an agent does.
func installForever(dir string) {
	go func() {
		for {
			_ = exec.Command("/bin/true").Run()
		}
	}()
	for i := 0; ; i++ {
		o, err := optionsIn(dir, i%2).forKeep()
		if err == nil {
			k := newKeeper(o, brisk)
			_, pluginErr := k.plugin.look(time.Now())
			_, entryErr := k.entry.look(time.Now())
			err = errors.Join(pluginErr, entryErr)
		}
		if err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		if i < 2 {
			fmt.Println("ready")
		}
	}
}

// TestAnAgentThatIsKilledLeavesWholeFiles: whoever reads the entry or executes the
// plugin finds one or the other version whole, while agents install and are killed.
func TestAnAgentThatIsKilledLeavesWholeFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "net.d"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"weir0": string(program), "weir1": string(program) + strings.Repeat("\x00", 1<<20), "net.d/10-flannel.conflist": flannel,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	killOne(t, dir, 0) // something is installed from here on
	var reads, runs atomic.Int64
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for !done.Load() && !t.Failed() {
				readEntry(t, filepath.Join(dir, "net.d", DefaultName))
				reads.Add(1)
			}
		})
		readers.Go(func() {
			for !done.Load() && !t.Failed() {
				if out, err := exec.Command(filepath.Join(dir, "bin", "weir")).CombinedOutput(); err != nil {
					t.Errorf("executing the plugin: %v %s", err, out)
				}
				runs.Add(1)
			}
		})
	}
	for range 40 {
		killOne(t, dir, time.Duration(rand.IntN(40_000))*time.Microsecond)
	}
	done.Store(true)
	readers.Wait()
	t.Logf("the entry was read %d times, the plugin executed %d times", reads.Load(), runs.Load())
	o, err := optionsIn(dir, 0).forKeep()
	if err != nil {
		t.Fatal(err)
	}
	newKeeper(o, brisk).close()
	for _, d := range []string{"bin", "net.d"} {
		if left, _ := filepath.Glob(filepath.Join(dir, d, temporary+"*")); len(left) > 0 {
			t.Errorf("left over: %q", left)
		}
	}
}

// killOne runs an agent that installs, and kills it some time after its first round.
func killOne(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Errorf("the agent says %q: %v", line, err)
	}
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func readEntry(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("reading the entry: %v", err)
		return
	}
	list, err := libcni.NetworkConfFromBytes(data)
	if err != nil || len(list.Plugins) != 1 || !strings.HasSuffix(string(data), "}\n") {
		t.Errorf("%q: %v", data, err)
	}
}
