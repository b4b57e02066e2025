// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// makeWeirImage writes an archive of the image that the Dockerfile describes. Only
// the Go compiler runs elsewhere than it says: what the last stage copies from
// another one, or from build, is compiled here, since nothing can be pulled.
func (c *Cluster) makeWeirImage(ctx context.Context, file, name string) error {
	work := filepath.Join(c.dir, "image")
	commands := filepath.Join(work, "commands")
	if err := goBuild(ctx, c.builds.repository, commands, "./cmd/..."); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(c.builds.repository, "Dockerfile"))
	if err != nil {
		return err
	}
	folder := filepath.Join(work, "context")
	// A context that is named as a stage replaces it, and nothing of it is run.
	args := []string{"bud", "--isolation=chroot", "--format=docker", "--tag=" + name,
		"--file=" + filepath.Join(c.builds.repository, "Dockerfile")}
	for _, copied := range copiedInto(string(text)) {
		from := folder
		if copied.from != "" {
			from = filepath.Join(work, "stage-"+copied.from)
			args = append(args, "--build-context="+copied.from+"="+from)
		}
		if err := provide(filepath.Join(from, copied.source), copied.source, commands, c.builds.repository); err != nil {
			return fmt.Errorf("providing what the Dockerfile copies: %w", err)
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := c.buildah(ctx, append(args, folder)...); err != nil {
		return err
	}
	return c.buildah(ctx, "push", name, "docker-archive:"+file+":"+name)
}

// buildah runs buildah with a storage of the cluster's own.
func (c *Cluster) buildah(ctx context.Context, args ...string) error {
	storage := filepath.Join(c.dir, "buildah")
	args = append([]string{"--root=" + storage + "/root", "--runroot=" + storage + "/run", "--storage-driver=vfs"}, args...)
	_, err := output(ctx, "", "/usr/bin/buildah", args...)
	return err
}

// copied is a source of a COPY instruction; from is a stage, or empty.
type copied struct{ from, source string }

// copiedInto is what the last stage of a Dockerfile copies.
func copiedInto(dockerfile string) []copied {
	var all []copied
	for line := range strings.Lines(strings.ReplaceAll(dockerfile, "\\\n", " ")) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch strings.ToUpper(words[0]) {
		case "FROM":
			all = nil
		case "COPY":
			all = append(all, sources(words[1:])...)
		}
	}
	return all
}

// sources are all operands of a COPY but the last one.
func sources(words []string) []copied {
	var from string
	var operands []string
	for _, word := range words {
		if !strings.HasPrefix(word, "--") {
			operands = append(operands, word)
		} else if stage, is := strings.CutPrefix(word, "--from="); is {
			from = stage
		}
	}
	var all []copied
	for _, source := range operands[:max(0, len(operands)-1)] {
		all = append(all, copied{from, source})
	}
	return all
}

// provide puts at path what a COPY calls source: one of weir's commands, a file of
// the repository, or a folder with all the commands.
func provide(path, source, commands, repository string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	for _, file := range []string{filepath.Join(commands, filepath.Base(source)), filepath.Join(repository, source)} {
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			return copyFile(path, file, info.Mode())
		}
	}
	if err := os.CopyFS(path, os.DirFS(commands)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func copyFile(to, from string, mode fs.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}
