// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weir-cni/weir/bpf"
)

// Runs are what the kernel has measured of a program since it was loaded.
type Runs struct {
	Count uint64
	Time  time.Duration
}

// statisticsSwitch is 1 where the kernel measures every run of a program, which costs each
// some 20 ns.
const statisticsSwitch = "/proc/sys/kernel/bpf_stats_enabled"

// MeasuresRuns tells whether the kernel measures programs.
func MeasuresRuns() bool {
	value, err := os.ReadFile(statisticsSwitch)
	return err == nil && string(bytes.TrimSpace(value)) == "1"
}

// Runs are those of both programs, by direction.
func (g *Guard) Runs() (*[2]Runs, error) {
	g.open.RLock()
	defer g.open.RUnlock()
	var runs [2]Runs
	for d, program := range [2]*ebpf.Program{bpf.Ingress: g.ingress, bpf.Egress: g.egress} {
		stats, err := program.Stats()
		if err != nil {
			return nil, fmt.Errorf("reading how long a program of %s has run: %w", g.dir, err)
		}
		runs[d] = Runs{Count: stats.RunCount, Time: stats.Runtime}
	}
	return &runs, nil
}
