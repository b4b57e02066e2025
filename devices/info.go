// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"golang.org/x/sys/unix"
)

// InfoDir is the directory that the specification has for Device Information files.
const InfoDir = "/var/run/k8s.cni.cncf.io/devinfo"

const (
	fromDevicePlugins = "dp"
	forCNIPlugins     = "cni"
	// maxInfo is far above what a file with every key has.
	maxInfo = 64 << 10
	// maxName is that of a file's name, less what Copy adds to it for a while.
	maxName = 255 - len("."+temporary)

	temporary = ".tmp"
)

// Info are the Device Information files: those that device plugins write for their
// devices, and for each attachment a copy that is its plugins' own. The functions of
// the standard's Go library are not used: they make the directory with no
// permissions, fail an ADD that is repeated, and can leave half a file.
type Info struct {
	// Dir is where the files are. Optional; InfoDir if empty.
	Dir string
}

// Path is the file of an attachment, whether there is one or not: the capability
// CNIDeviceInfoFile. It has the name that Multus gives it; of a long network's name
// the beginning.
func (i Info) Path(network, containerID, ifname string) (string, error) {
	rest := "-" + flat(containerID) + "_" + flat(ifname)
	if network == "" || containerID == "" || ifname == "" || len(rest) >= maxName || strings.ContainsRune(network+rest, 0) {
		return "", fmt.Errorf("network %q, container ID %q and interface %q name no Device Information file: %w",
			network, containerID, ifname, fs.ErrInvalid)
	}
	name := flat(network)
	return filepath.Join(i.dir(), forCNIPlugins, name[:min(len(name), maxName-len(rest))]+rest), nil
}

// Copy copies the file of a device to that of an attachment, a Path, in one step and
// byte for byte, once it is seen to be right. The error is fs.ErrNotExist when the
// device plugin has written none, as it need not.
func (i Info) Copy(resource, deviceID, path string) error {
	if err := i.own(path); err != nil {
		return err
	}
	if resource == "" || deviceID == "" || strings.ContainsRune(resource+deviceID, 0) {
		return fmt.Errorf("resource %q and device %q name no Device Information file: %w", resource, deviceID, fs.ErrInvalid)
	}
	source := filepath.Join(i.dir(), fromDevicePlugins, flat(resource)+"-"+flat(deviceID)+"-device.json")
	data, _, err := readInfo(source)
	if err != nil {
		return err
	}
	if err := replace(path, data); err != nil {
		return fmt.Errorf("copying the Device Information of device %s: %w", deviceID, err)
	}
	return nil
}

// Read reads the file of an attachment, a Path: the copy, or what a plugin of the
// network has written there. The error is fs.ErrNotExist when there is none. What is
// no regular file, is longer than 64 KiB or lacks a key that it must have is an error.
func (i Info) Read(path string) (*nadv1.DeviceInfo, error) {
	if err := i.own(path); err != nil {
		return nil, err
	}
	_, info, err := readInfo(path)
	return info, err
}

// Remove removes the file of an attachment, a Path, if there is one.
func (i Info) Remove(path string) error {
	if err := i.own(path); err != nil {
		return err
	}
	for _, file := range []string{path, temporaryOf(path)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the Device Information: %w", err)
		}
	}
	return nil
}

func (i Info) dir() string { return cmp.Or(i.Dir, InfoDir) }

// own refuses a path that is none of Path's.
func (i Info) own(path string) error {
	dir, name := filepath.Split(path)
	if dir != filepath.Join(i.dir(), forCNIPlugins)+"/" || name == "" || name == "." || name == ".." {
		return fmt.Errorf("%q is no Device Information file of an attachment in %s: %w", path, i.dir(), fs.ErrInvalid)
	}
	return nil
}

// flat is what the specification makes of a name that is part of a file's.
func flat(name string) string { return strings.ReplaceAll(name, "/", "-") }

func readInfo(path string) ([]byte, *nadv1.DeviceInfo, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the Device Information: %w", err)
	}
	info, err := parseInfo(data)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the Device Information %s: %w", path, err)
	}
	return data, info, nil
}

// readSmall reads a regular file, and neither follows a link nor waits for a pipe.
func readSmall(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link", path)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	stat, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !stat.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxInfo+1))
	if len(data) > maxInfo {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxInfo)
	}
	return data, err
}

func temporaryOf(path string) string {
	dir, name := filepath.Split(path)
	return filepath.Join(dir, "."+name+temporary)
}

// replace writes a file whole or not at all. It need not outlast the machine: the
// directory does not either, nor does any attachment.
func replace(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	unfinished := temporaryOf(path)
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(unfinished))
	}
	return nil
}
