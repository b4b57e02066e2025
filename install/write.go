// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// temporary begins the names of files that are being written. No runtime reads them:
// they have none of its extensions.
const temporary = ".weir-new-"

// Replace puts data at path, whole or not at all; what is there stays until then. The
// file that is to take its place is checked first. When Replace returns nil the file
// survives a loss of power.
func Replace(path string, data []byte, mode fs.FileMode, check func(path string) error) error {
	dir := filepath.Dir(path)
	temp, err := writeTemporary(dir, data, mode)
	if err == nil {
		err = check(temp)
	}
	if err == nil {
		err = Flush(temp)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, discard(temp)))
	}
	if err := Flush(dir); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// writeTemporary writes a file of a name of its own. A process that is forked while the
// file is open for writing has it open, too, until it executes something, and nobody
// can execute the file before that (ETXTBSY): nothing is forked meanwhile.
func writeTemporary(dir string, data []byte, mode fs.FileMode) (string, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	return f.Name(), errors.Join(err, f.Chmod(mode), f.Close())
}

func discard(temp string) error {
	if temp == "" {
		return nil
	}
	return os.Remove(temp)
}

// Flush puts a file or a directory on the disk.
func Flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// RemoveTemporary removes what writes that were cut off have left in a directory.
func RemoveTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), temporary) {
			errs = append(errs, removeIfThere(filepath.Join(dir, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// holds tells whether path is a regular file of this content and mode.
func holds(path string, data []byte, mode fs.FileMode) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode() != mode || info.Size() != int64(len(data)) {
		return false, nil
	}
	found, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.Equal(found, data), err
}
