// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"time"
)

// never is how long a thing waits that has nothing to do.
const never = time.Duration(math.MaxInt64)

// pluginMode is that of the installed plugin.
const pluginMode = 0o755

// pluginKeeper keeps the installed plugin.
type pluginKeeper struct {
	Options
	reporter *reporter
	gate     gate
	// source and target are the files as they were when they were found to be alike.
	source, target stamp
	failed         error // of the last installation
}

// look installs the plugin where it is missing or another, and returns how long the
// next look may wait.
func (p *pluginKeeper) look(now time.Time) (time.Duration, error) {
	source, err := stampOf(p.Plugin)
	if err != nil {
		return never, fmt.Errorf("reading the plugin to install: %w", err)
	}
	target, err := stampOf(p.plugin())
	switch {
	case err == nil && source == p.source && target == p.target && target.isSettled(now):
		return never, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return never, fmt.Errorf("looking at the installed plugin: %w", err)
	}
	data, err := os.ReadFile(p.Plugin)
	if err != nil {
		return never, fmt.Errorf("reading the plugin to install: %w", err)
	}
	if len(data) == 0 {
		return never, fmt.Errorf("the plugin to install, %s, is empty", p.Plugin)
	}
	same, err := holds(p.plugin(), data, pluginMode)
	if err != nil {
		return never, fmt.Errorf("looking at the installed plugin: %w", err)
	}
	if same {
		p.source, p.target, p.failed = source, target, nil
		return never, nil
	}
	if wait := p.gate.wait(now); wait > 0 {
		return wait, p.failed
	}
	return p.install(now, source, data)
}

func (p *pluginKeeper) install(now time.Time, source stamp, data []byte) (time.Duration, error) {
	p.gate.pass(now)
	p.failed = Replace(p.plugin(), data, pluginMode, func(string) error { return nil })
	if p.failed != nil {
		return p.gate.wait(now), p.failed
	}
	p.Log.Info("the plugin is installed", "path", p.plugin())
	if source == p.source {
		p.reporter.happened(now, ReasonPluginRestored,
			fmt.Sprintf("%s was removed or changed, and has been installed again", p.plugin()))
	}
	var err error
	p.source = source
	p.target, err = stampOf(p.plugin())
	return never, err
}
