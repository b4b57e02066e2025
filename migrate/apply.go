// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/install"
)

// ErrNoJournal is the error of a node on which nothing is to be reverted.
var ErrNoJournal = errors.New("nothing has been migrated on this node")

// journal is what is on disk of a migration.
type journal struct {
	Version int    `json:"version"`
	Steps   []step `json:"steps"`
}

// journalVersion is the only one that is read.
const journalVersion = 1

func journalPath(stateDir string) string { return filepath.Join(stateDir, "migration.json") }

// Apply carries the plan out, unless something has changed since it was made. What
// fails in the middle is undone.
func (p *Plan) Apply() error {
	if len(p.Problems) > 0 {
		return fmt.Errorf("migrating: %s", strings.Join(p.Problems, "; "))
	}
	unlock, err := lock(p.options.StateDir)
	if err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	defer unlock.Close()
	if err := p.begin(); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	for i := range p.steps {
		if err := p.steps[i].do(); err != nil {
			_, undoErr := revert(p.options)
			return fmt.Errorf("migrating: %w", errors.Join(err, undoErr))
		}
	}
	p.Applied = true
	return nil
}

// begin writes the journal.
func (p *Plan) begin() error {
	if _, err := os.Lstat(journalPath(p.options.StateDir)); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s has the journal of another migration", p.options.StateDir), err)
	}
	if p.kept != nil {
		if now, err := os.ReadFile(p.Path); err != nil || !bytes.Equal(now, p.kept) {
			return errors.Join(fmt.Errorf("%s is not as it was when the plan was made", p.Path), err)
		}
	}
	for i := range p.steps {
		state, change, err := p.steps[i].look()
		if err != nil {
			return err
		}
		if state != undone {
			return fmt.Errorf("%s is not as it was when the plan was made %s", p.steps[i].Path, change)
		}
	}
	data, err := json.MarshalIndent(journal{journalVersion, p.steps}, "", "  ")
	if err != nil {
		return err
	}
	return install.Replace(journalPath(p.options.StateDir), append(data, '\n'), 0o600, func(string) error { return nil })
}

// lock keeps others from migrating the node at the same time.
func lock(stateDir string) (io.Closer, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(stateDir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another migration is under way in %s", stateDir)
	}
	if err == nil {
		err = install.RemoveTemporary(stateDir)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// Revert brings every file back as it was before Apply: content, mode and name. It may
// be called after Apply, or Revert itself, was cut off anywhere. Where somebody has
// changed a file since, nothing is done and the error says which, unless options force
// it. Without a journal the error is ErrNoJournal. The operations are those that were
// needed, in their order.
func Revert(o Options) ([]Operation, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("reverting: %w", err)
	}
	if _, err := os.Lstat(journalPath(o.StateDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reverting: %s: %w", o.StateDir, ErrNoJournal)
	}
	unlock, err := lock(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("reverting: %w", err)
	}
	defer unlock.Close()
	operations, err := revert(o)
	if err != nil {
		return nil, fmt.Errorf("reverting: %w", err)
	}
	return operations, nil
}

// revert undoes what the journal has, the last step first, and removes it. Multus's
// file, which the runtime reads first, is back before weir's goes.
func revert(o Options) ([]Operation, error) {
	j, err := readJournal(o.StateDir)
	if err != nil {
		return nil, err
	}
	if !o.Force {
		if err := j.check(); err != nil {
			return nil, err
		}
	}
	operations := []Operation{}
	for _, s := range slices.Backward(j.Steps) {
		if state, _, err := s.look(); err == nil && state != undone {
			operations = append(operations, s.inverse())
		}
		if err := s.undo(); err != nil {
			return nil, err
		}
		if s.Do == doWrite {
			if err := install.RemoveTemporary(filepath.Dir(s.Path)); err != nil {
				return nil, err
			}
		}
	}
	return operations, remove(journalPath(o.StateDir))
}

func readJournal(stateDir string) (*journal, error) {
	data, err := os.ReadFile(journalPath(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", stateDir, ErrNoJournal)
	}
	if err != nil {
		return nil, err
	}
	j := &journal{}
	if err := json.Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("reading %s: %w", journalPath(stateDir), err)
	}
	if j.Version != journalVersion {
		return nil, fmt.Errorf("reading %s: version %d, not %d", journalPath(stateDir), j.Version, journalVersion)
	}
	return j, nil
}

// check finds what somebody has changed since Apply.
func (j *journal) check() error {
	var errs []error
	for i := range j.Steps {
		state, change, err := j.Steps[i].look()
		if err == nil && state == changed {
			err = fmt.Errorf("%s since the migration: nothing is done without force", change)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
