// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// pace is how fast a keeper is.
type pace struct {
	poll      time.Duration // between looks without an event: a watch does not see what links lead to
	blind     time.Duration // the same where there can be no watch
	pause     time.Duration // between looks, at least
	settle    time.Duration // how long a default network that has gone is waited for
	report    time.Duration // between reports of one reason
	retry     time.Duration // after a write that was undone or failed, at first
	retryMost time.Duration // the same, in the end
}

var ordinary = pace{
	poll: 10 * time.Second, blind: 2 * time.Second, pause: 20 * time.Millisecond, settle: 10 * time.Second,
	report: time.Minute, retry: 100 * time.Millisecond, retryMost: 30 * time.Second,
}

// keeper keeps one node's files.
type keeper struct {
	Options
	pace     pace
	reporter *reporter
	watcher  *fsnotify.Watcher      // nil where there is none
	watched  map[string]os.FileInfo // the directories that the watches are on
	blind    string                 // why changes are not followed
	looked   time.Time
	entry    entryKeeper
	plugin   pluginKeeper
}

func newKeeper(o Options, p pace) *keeper {
	k := &keeper{Options: o, pace: p, reporter: newReporter(&o, p.report), watched: map[string]os.FileInfo{}}
	k.entry = entryKeeper{
		Options: o, settle: p.settle, reporter: k.reporter, troubles: map[string]string{},
		gate: gate{least: p.retry, most: p.retryMost},
	}
	k.plugin = pluginKeeper{Options: o, reporter: k.reporter, gate: k.entry.gate}
	for _, dir := range []string{o.BinDir, o.ConfDir} {
		if err := RemoveTemporary(dir); err != nil {
			o.Log.Warn("what an installation that was cut off has left stays", "dir", dir, "err", err)
		}
	}
	k.entry.adopt()
	return k
}

func (k *keeper) close() {
	if k.watcher != nil {
		_ = k.watcher.Close() // inotify's own descriptor: there is nothing to lose
	}
}

func (k *keeper) run(ctx context.Context) {
	for ctx.Err() == nil {
		k.wait(ctx, k.look(time.Now()))
	}
}

// look puts right what is not as it should be, and returns how long the next look may
// wait. The entry is not written before there is a plugin.
func (k *keeper) look(now time.Time) time.Duration {
	k.looked = now
	err := k.makeDirs()
	next := k.follow()
	wait, pluginErr := k.plugin.look(now)
	next, err = min(next, wait), errors.Join(err, pluginErr)
	if _, missing := os.Stat(k.Options.plugin()); missing == nil {
		wait, entryErr := k.entry.look(now)
		next, err = min(next, wait), errors.Join(err, entryErr)
	}
	trouble := ""
	if err != nil {
		trouble = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	k.reporter.is(now, ReasonFailed, trouble)
	return next
}

func (k *keeper) makeDirs() error {
	for _, dir := range []string{k.BinDir, k.ConfDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the directories: %w", err)
		}
	}
	return nil
}

// wait returns after an event of somebody else's, or when the time has passed.
func (k *keeper) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	var events chan fsnotify.Event
	var errs chan error
	if k.watcher != nil {
		events, errs = k.watcher.Events, k.watcher.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case event := <-events:
			if k.matters(event) {
				timer.Reset(min(d, max(0, time.Until(k.looked.Add(k.pace.pause)))))
			}
		case err := <-errs:
			k.Log.Warn("changes may have been missed: looking at everything", "err", err)
			timer.Reset(0)
		}
	}
}

func (k *keeper) matters(event fsnotify.Event) bool {
	delete(k.watched, event.Name) // where it is a directory, it was moved or removed
	return !strings.HasPrefix(filepath.Base(event.Name), temporary)
}

// follow sees to it that events come, and returns how long a look may wait without one.
func (k *keeper) follow() time.Duration {
	err := k.rewatch()
	if err == nil {
		k.blind = ""
		return k.pace.poll
	}
	if err.Error() != k.blind {
		k.Log.Warn("changes are not followed, but looked for", "every", k.pace.blind, "err", err)
	}
	k.blind = err.Error()
	return k.pace.blind
}

// rewatch puts a watch on the directories that have the names now: a watch stays with
// its directory when that is moved.
func (k *keeper) rewatch() error {
	if k.watcher == nil {
		watcher, err := fsnotify.NewWatcher()
		if err != nil {
			return err
		}
		k.watcher = watcher
	}
	dirs := []string{k.BinDir, k.ConfDir}
	if k.DefaultNetwork != "" {
		dirs = append(dirs, filepath.Dir(k.DefaultNetwork))
	}
	var errs []error
	for _, dir := range dirs {
		if err := k.watch(dir); err != nil {
			errs = append(errs, fmt.Errorf("watching %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

func (k *keeper) watch(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		delete(k.watched, dir)
		return err
	}
	if seen := k.watched[dir]; seen != nil && os.SameFile(seen, info) {
		return nil
	}
	if err := k.watcher.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		return err
	}
	if err := k.watcher.Add(dir); err != nil {
		return err
	}
	k.watched[dir] = info
	return nil
}
