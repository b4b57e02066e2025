// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weir-cni/weir/tests/kernels/guest"
)

// logs is where what the VMs wrote stays, below the current folder.
const logs = "build/kernels"

// execute does what the command line asks for.
func execute(ctx context.Context, o options, out *printer) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("this machine is %s; the kernels are for amd64", runtime.GOARCH)
	}
	if err := checkTools(exec.LookPath); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "weir-kernels-")
	if err != nil {
		return fmt.Errorf("making a folder for the binaries: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return fmt.Errorf("making the folder for logs: %w", err)
	}
	s := &session{options: o, work: work, out: out}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if o.shell {
		return s.interact(ctx)
	}
	return s.judge(ctx)
}

// session is one execution of the command.
type session struct {
	options
	work     string
	out      *printer
	kernels  []guest.Kernel
	packages []testPackage
}

// prepare downloads and compiles at the same time.
func (s *session) prepare(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	s.kernels = make([]guest.Kernel, len(s.releases))
	for i, wanted := range s.releases {
		g.Go(func() (err error) {
			s.kernels[i], err = guest.Fetch(ctx, wanted, s.cache, func(text string) { s.out.say(wanted.Version, text) })
			return err
		})
	}
	g.Go(func() (err error) {
		if s.packages, err = listPackages(ctx, s.options.packages, s.match); err != nil {
			return err
		}
		s.out.say("build", fmt.Sprintf("compiling the tests of %d packages", len(s.packages)))
		return build(ctx, s.packages, s.work, s.out)
	})
	return g.Wait()
}

// runnable is the packages that compiled.
func (s *session) runnable() []testPackage {
	return slices.DeleteFunc(slices.Clone(s.packages), func(p testPackage) bool { return p.broken != nil })
}

func (s *session) judge(ctx context.Context) error {
	results := make([]result, len(s.kernels))
	var g errgroup.Group
	for i, k := range s.kernels {
		g.Go(func() error {
			results[i] = s.test(ctx, k)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	failed := summarize(s.out.to, results)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	case len(s.packages) == 0:
		return fmt.Errorf("no package has a test that matches %s", s.match)
	case failed > 0:
		return fmt.Errorf("%d of the above failed; the logs are in %s", failed, logs)
	}
	return nil
}

// test boots one kernel and waits for all of its tests.
func (s *session) test(ctx context.Context, k guest.Kernel) result {
	started := time.Now()
	rep := s.report(k)
	m, err := s.machine(ctx, k, rep.token)
	if err == nil && len(rep.outcomes) > 0 {
		s.out.say(k.Version, "booting "+filepath.Base(k.Image))
		err = m.run(ctx, rep.line)
		if err == nil && !rep.done {
			err = errors.New("the VM ended before its tests did")
		}
	}
	if err != nil {
		s.explain(m, rep)
	}
	return result{k.Version, rep.uname, time.Since(started), append(rep.outcomes, s.broken()...), err}
}

func (s *session) report(k guest.Kernel) *report {
	rep := &report{
		token: "weir-" + rand.Text(), now: time.Now, verbose: s.verbose,
		show: func(text string) { s.out.say(k.Version, text) },
	}
	for _, p := range s.runnable() {
		rep.outcomes = append(rep.outcomes, &outcome{path: p.path})
	}
	return rep
}

func (s *session) broken() []*outcome {
	var all []*outcome
	for _, p := range s.packages {
		if p.broken != nil {
			all = append(all, &outcome{path: p.path, broken: true})
		}
	}
	return all
}

func (s *session) machine(ctx context.Context, k guest.Kernel, token string) (machine, error) {
	log := filepath.Join(logs, k.Version)
	m := machine{
		image: k.Image, initramfs: filepath.Join(s.work, k.Version+".cpio"),
		console: log + "-console.log", tests: log + "-tests.log", timeout: s.timeout,
	}
	told := settings{kernel: k.Version, token: token, run: s.run, timeout: s.timeout / 2, shell: s.shell}
	return m, pack(ctx, k, told, s.runnable(), s.with, filepath.Join(s.work, k.Version), m.initramfs)
}

func (s *session) interact(ctx context.Context) error {
	m, err := s.machine(ctx, s.kernels[0], rand.Text())
	if err != nil {
		return err
	}
	return m.shell(ctx)
}

// explain prints what a VM that went wrong said last.
func (s *session) explain(m machine, rep *report) {
	if rep.current != nil && !s.verbose {
		for _, line := range rep.current.output {
			rep.show(line)
		}
	}
	console, err := os.ReadFile(m.console)
	if err != nil {
		return
	}
	rep.show("the kernel said:")
	rep.show(string(console))
}
