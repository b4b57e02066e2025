// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import (
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

var processed = regexp.MustCompile(`processed (\d+) insns`)

// The kernel's verifier takes the programs with all checks, and far from its bound of a
// million instructions. With -v it says how far: a row of docs/performance.md.
func TestNetnsProgramsAreVerified(t *testing.T) {
	const bound = 100_000
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := CollectionSpec()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables["weir_checks"].Set(uint32(all)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	plain, err := ebpf.NewCollection(spec.Copy())
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	plain.Close()
	options := ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}}
	collection, err := ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		t.Fatal(err)
	}
	defer collection.Close()
	row := "| " + release(t)
	for _, name := range []string{EgressProgram, IngressProgram} {
		program := collection.Programs[name]
		found := processed.FindStringSubmatch(program.VerifierLog)
		if found == nil {
			t.Fatalf("%s: the verifier says %q", name, program.VerifierLog)
		}
		if n, err := strconv.Atoi(found[1]); err != nil || n > bound {
			t.Errorf("%s: %s instructions were followed, more than %d", name, found[1], bound)
		}
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		size, err := info.TranslatedSize()
		if err != nil {
			t.Fatal(err)
		}
		row += " | " + found[1] + " | " + strconv.Itoa(size/8)
	}
	t.Logf("%s | %.1f |", row, float64(took.Microseconds())/1000)
}

func release(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	return unix.ByteSliceToString(name.Release[:])
}
