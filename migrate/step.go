// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weir-cni/weir/install"
)

const (
	doWrite  = "write"
	doRename = "rename"
	// entryMode is that of weir's entry.
	entryMode = 0o600
)

// step is one change of a file, with all that it takes to undo it.
type step struct {
	Do   string `json:"do"`
	Path string `json:"path"`
	To   string `json:"to,omitempty"`
	// Content and Mode are those of the file that is written or renamed.
	Content []byte      `json:"content"`
	Mode    fs.FileMode `json:"mode"`
}

// file is what a path holds.
type file struct {
	content []byte
	mode    fs.FileMode
}

// readFile is nil for a path that holds nothing.
func readFile(path string) (*file, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return &file{data, info.Mode().Perm()}, nil
}

func (f *file) is(content []byte, mode fs.FileMode) bool {
	return f != nil && bytes.Equal(f.content, content) && f.mode == mode
}

// state is how far a step has come, as the files have it.
type state int

const (
	undone state = iota
	done
	// doubled: the file has both names, each whole: somebody wrote it anew as it was.
	doubled
	// changed: somebody has made something else of it.
	changed
)

// look finds the state of a step, and says what was changed.
func (s *step) look() (state, string, error) {
	now, err := readFile(s.Path)
	if err != nil {
		return changed, "", err
	}
	if s.Do == doWrite {
		switch {
		case now.is(s.Content, s.Mode):
			return done, "", nil
		case now == nil:
			return undone, "", nil
		}
		return changed, s.Path + " was changed", nil
	}
	to, err := readFile(s.To)
	if err != nil {
		return changed, "", err
	}
	switch {
	case to == nil && now.is(s.Content, s.Mode):
		return undone, "", nil
	case to.is(s.Content, s.Mode) && now == nil:
		return done, "", nil
	case to.is(s.Content, s.Mode) && now.is(s.Content, s.Mode):
		return doubled, "", nil
	case now == nil && to == nil:
		return changed, fmt.Sprintf("%s and %s are gone", s.Path, s.To), nil
	case now == nil:
		return changed, s.To + " was changed", nil
	}
	return changed, fmt.Sprintf("somebody wrote another %s", s.Path), nil
}

// do carries the step out.
func (s *step) do() error {
	if s.Do == doWrite {
		return install.Replace(s.Path, s.Content, s.Mode, install.CheckEntry)
	}
	return rename(s.Path, s.To)
}

// inverse is the operation that undoes the step.
func (s *step) inverse() Operation {
	if s.Do == doWrite {
		return Operation{Do: "remove", Path: s.Path}
	}
	return Operation{Do: doRename, Path: s.To, To: s.Path}
}

// undo brings back what was there before, if it is not there.
func (s *step) undo() error {
	state, _, err := s.look()
	switch {
	case err != nil:
		return err
	case state == undone:
		return nil
	case s.Do == doWrite:
		return remove(s.Path)
	case state == done:
		return rename(s.To, s.Path)
	case state == doubled:
		return remove(s.To)
	}
	if err := install.Replace(s.Path, s.Content, s.Mode, func(string) error { return nil }); err != nil {
		return err
	}
	// What somebody made of the renamed file is not thrown away.
	if to, err := readFile(s.To); err != nil || !to.is(s.Content, s.Mode) {
		return err
	}
	return remove(s.To)
}

func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return install.Flush(filepath.Dir(to))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return install.Flush(filepath.Dir(path))
}
