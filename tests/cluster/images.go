// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
)

const (
	pauseImage = "registry.k8s.io/pause:3.10"
	// AlpineImage is a busybox under a name that examples use.
	AlpineImage = "docker.io/library/alpine:latest"
	busybox     = "/bin/busybox"
)

// writeBusyboxImage writes an archive, as `docker save` does, of an image that
// has busybox under all its names.
func writeBusyboxImage(file, name string, command ...string) error {
	layer, err := busyboxLayer()
	if err != nil {
		return err
	}
	config, err := json.Marshal(object{
		"architecture": "amd64", "os": "linux",
		"config": object{"Cmd": command, "Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]object{{
		"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return err
	}
	var archive archive
	archive.add("manifest.json", 0o644, manifest)
	archive.add("config.json", 0o644, config)
	archive.add("layer.tar", 0o644, layer)
	data, err := archive.close()
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

func busyboxLayer() ([]byte, error) {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("reading busybox (Debian package busybox-static): %w", err)
	}
	list, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("asking busybox for its names: %w", err)
	}
	var layer archive
	for _, dir := range []string{"bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "run", "root", "tmp"} {
		layer.header(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
	}
	layer.add("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	layer.add("etc/group", 0o644, []byte("root:x:0:\n"))
	layer.add(strings.TrimPrefix(busybox, "/"), 0o755, binary)
	for name := range strings.FieldsSeq(string(list)) {
		if dir := path.Dir(name); "/"+name != busybox && (path.Base(dir) == "bin" || path.Base(dir) == "sbin") {
			layer.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: busybox})
		}
	}
	return layer.close()
}

// archive writes a tar; the first error is kept to the end.
type archive struct {
	buf bytes.Buffer
	tar *tar.Writer
	err error
}

func (a *archive) header(h *tar.Header) {
	if a.tar == nil {
		a.tar = tar.NewWriter(&a.buf)
	}
	if a.err == nil {
		a.err = a.tar.WriteHeader(h)
	}
}

func (a *archive) add(name string, mode int64, data []byte) {
	a.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))})
	if a.err == nil {
		_, a.err = a.tar.Write(data)
	}
}

func (a *archive) close() ([]byte, error) {
	if a.err == nil {
		a.err = a.tar.Close()
	}
	return a.buf.Bytes(), a.err
}
