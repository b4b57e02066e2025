// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/build/constraint"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

const tag = "netns"

// testPackage is a package with tests for the VM.
type testPackage struct {
	path   string // import path
	folder string // on this machine
	// inside is the package's folder below the module's, and its place in the VM.
	inside string
	binary string
	// broken is why there is no binary.
	broken error
}

// listPackages finds the packages that match the patterns or, without any, all
// of the module; of them, those with tests behind the tag that match. A pattern
// without dots must not name any other.
func listPackages(ctx context.Context, patterns []string, match *regexp.Regexp) ([]testPackage, error) {
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	several := slices.ContainsFunc(patterns, func(p string) bool { return strings.Contains(p, "...") })
	args := append([]string{"list", "-tags", tag, "-json=ImportPath,Dir,Module,TestGoFiles,XTestGoFiles", "--"}, patterns...)
	out, err := exec.CommandContext(ctx, "go", args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("listing packages: %w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	found, err := parseList(string(out))
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	var result []testPackage
	for _, p := range found {
		has, err := p.has(match)
		switch {
		case err != nil:
			return nil, err
		case has:
			result = append(result, p.testPackage())
		case !several:
			return nil, fmt.Errorf("%s has no test behind the build tag %s that matches %s", p.ImportPath, tag, match)
		}
	}
	return result, nil
}

// listed is what `go list` says about a package.
type listed struct {
	ImportPath, Dir           string
	TestGoFiles, XTestGoFiles []string
	Module                    struct{ Dir string }
}

func parseList(out string) ([]listed, error) {
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}

// has says whether a test behind the tag matches.
func (p listed) has(match *regexp.Regexp) (bool, error) {
	for _, name := range append(p.TestGoFiles, p.XTestGoFiles...) {
		source, err := os.ReadFile(filepath.Join(p.Dir, name))
		if err != nil {
			return false, fmt.Errorf("looking for build tags: %w", err)
		}
		if needsTag(string(source)) && slices.ContainsFunc(testNames(source), match.MatchString) {
			return true, nil
		}
	}
	return false, nil
}

// needsTag says whether a Go file is left out of a build without the tag only
// because of it.
func needsTag(source string) bool {
	for line := range strings.Lines(source) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "package ") {
			return false
		}
		if !constraint.IsGoBuild(line) {
			continue
		}
		expr, err := constraint.Parse(line)
		return err == nil && !expr.Eval(func(t string) bool { return t != tag })
	}
	return false
}

// testNames is the functions that look like tests.
func testNames(source []byte) []string {
	var names []string
	for line := range strings.Lines(string(source)) {
		if rest, ok := strings.CutPrefix(line, "func Test"); ok {
			name, _, _ := strings.Cut(rest, "(")
			names = append(names, "Test"+name)
		}
	}
	return names
}

func (p listed) testPackage() testPackage {
	inside, err := filepath.Rel(p.Module.Dir, p.Dir)
	if err != nil {
		inside = p.ImportPath
	}
	return testPackage{path: p.ImportPath, folder: p.Dir, inside: inside}
}

// build compiles every package's test binary into folder. A package that does
// not compile is marked broken and stops no other.
func build(ctx context.Context, packages []testPackage, folder string, out *printer) error {
	var g errgroup.Group
	// The linker, which takes most of the time, uses little more than one core.
	g.SetLimit(runtime.NumCPU())
	for i := range packages {
		p := &packages[i]
		p.binary = filepath.Join(folder, strconv.Itoa(i)+".test")
		g.Go(func() error {
			if p.broken = compile(ctx, p); p.broken != nil {
				out.say("build", p.broken.Error())
			}
			return context.Cause(ctx)
		})
	}
	return g.Wait()
}

func compile(ctx context.Context, p *testPackage) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-tags", tag, "-ldflags", "-s -w", "-o", p.binary, p.path)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("compiling the tests of %s: %w\n%s", p.path, err, strings.TrimSpace(string(text)))
	}
	return nil
}
