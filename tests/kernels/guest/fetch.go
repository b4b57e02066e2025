// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// metapackage depends on the newest kernel of its suite.
	metapackage = "linux-image-cloud-amd64"
	stable      = "bookworm"
	oldstable   = "bullseye"
	keyring     = "/usr/share/keyrings/debian-archive-keyring.gpg"
	attempts    = 3
)

// Release is a kernel version and the Debian suites that carry it.
type Release struct {
	// Version is as far as a suite keeps to it, such as 6.12.
	Version string
	suites  []string
}

func releases() []Release {
	return []Release{
		{"5.10", []string{oldstable, oldstable + "-security"}},
		{"6.1", []string{stable, stable + "-updates", stable + "-security"}},
		{"6.12", []string{stable + "-backports"}},
	}
}

// ReleaseOf returns the release of a version.
func ReleaseOf(version string) (Release, error) {
	all := releases()
	i := slices.IndexFunc(all, func(r Release) bool { return r.Version == version })
	if i < 0 {
		return Release{}, fmt.Errorf("there is no kernel %q here, only 5.10, 6.1 and 6.12", version)
	}
	return all[i], nil
}

// Kernel is an unpacked kernel package.
type Kernel struct {
	// Version is that of its release.
	Version string
	// Image is the compressed kernel.
	Image string
	// Modules is the folder below lib/modules; no module is compressed.
	Modules string
}

// Cache is the folder that keeps kernels unless another one is named.
func Cache() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "weir", "kernels"), nil
}

// Fetch downloads the kernel unless the cache has it, and says so before it does.
// A folder in the cache is complete, because it gets its name last.
func Fetch(ctx context.Context, r Release, cache string, say func(string)) (Kernel, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("making the cache of kernels: %w", err)
	}
	unlock, err := lock(filepath.Join(cache, r.Version+".lock"))
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	folder := filepath.Join(cache, r.Version)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		say("downloading the kernel")
		if err := retry(ctx, func() error { return download(ctx, r, folder) }); err != nil {
			return Kernel{}, fmt.Errorf("downloading kernel %s: %w", r.Version, err)
		}
	}
	return openKernel(r.Version, folder)
}

// lock makes a second run wait for the download of the first.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// retry is for mirrors: it waits longer after each failure.
func retry(ctx context.Context, try func() error) error {
	var err error
	for n := range attempts {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(n) * 3 * time.Second):
		}
		if err = try(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("after %d attempts: %w", attempts, err)
}

func download(ctx context.Context, r Release, folder string) error {
	work, err := os.MkdirTemp(filepath.Dir(folder), r.Version+"-")
	if err != nil {
		return fmt.Errorf("making a folder for the download: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	a, err := newApt(ctx, filepath.Join(work, "apt"), r.suites)
	if err != nil {
		return err
	}
	archive, err := a.image(ctx, r.Version)
	if err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	if err := quiet(ctx, "", "dpkg", "-x", archive, root); err != nil {
		return fmt.Errorf("unpacking %s: %w", filepath.Base(archive), err)
	}
	if err := decompress(ctx, root); err != nil {
		return err
	}
	return os.Rename(root, folder)
}

// decompress exists because busybox's insmod takes only plain modules.
func decompress(ctx context.Context, root string) error {
	var packed []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".ko.xz") {
			packed = append(packed, path)
		}
		return err
	})
	for files := range slices.Chunk(packed, 500) {
		if err == nil {
			err = quiet(ctx, "", "xz", append([]string{"--decompress"}, files...)...)
		}
	}
	if err != nil {
		return fmt.Errorf("decompressing the modules: %w", err)
	}
	return nil
}

func openKernel(version, folder string) (Kernel, error) {
	image, err := only(filepath.Join(folder, "boot/vmlinuz-*"))
	if err != nil {
		return Kernel{}, err
	}
	modules, err := only(filepath.Join(folder, "lib/modules/*"), filepath.Join(folder, "usr/lib/modules/*"))
	if err != nil {
		return Kernel{}, err
	}
	return Kernel{version, image, modules}, nil
}

func only(patterns ...string) (string, error) {
	var found []string
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		found = append(found, paths...)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s: found %d files where one belongs", patterns[0], len(found))
	}
	return found[0], nil
}

// apt is apt-get with sources and state of its own: nothing of the machine's
// changes, and nothing of it decides which kernel is the newest.
type apt struct {
	folder  string
	options []string
}

func newApt(ctx context.Context, folder string, suites []string) (*apt, error) {
	lines, err := sources(ctx, suites)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o755); err != nil {
			return nil, fmt.Errorf("making apt's folders: %w", err)
		}
	}
	a := &apt{folder: folder, options: privateState(folder)}
	status := os.WriteFile(filepath.Join(folder, "status"), nil, 0o644)
	list := os.WriteFile(filepath.Join(folder, "sources.list"), []byte(strings.Join(lines, "")), 0o644)
	if err := errors.Join(status, list); err != nil {
		return nil, fmt.Errorf("writing apt's state: %w", err)
	}
	if err := quiet(ctx, folder, "apt-get", append(a.options, "update")...); err != nil {
		return nil, fmt.Errorf("reading the package lists: %w", err)
	}
	return a, nil
}

func privateState(folder string) []string {
	var options []string
	for _, option := range []string{
		"Dir::State=" + folder + "/state/",
		"Dir::State::status=" + folder + "/status",
		"Dir::Cache=" + folder + "/cache/",
		"Dir::Etc::sourcelist=" + folder + "/sources.list",
		"Dir::Etc::sourceparts=-",
		"Dir::Etc::preferences=-",
		"Dir::Etc::preferencesparts=-",
		// The user _apt cannot write below a home.
		"APT::Sandbox::User=",
		// Without it an update that got nothing succeeds.
		"APT::Update::Error-Mode=any",
		"Acquire::Languages=none",
		"Acquire::http::Timeout=30",
		"Acquire::https::Timeout=30",
	} {
		options = append(options, "-o", option)
	}
	return options
}

// sources takes the mirrors from the machine's own apt sources.
func sources(ctx context.Context, suites []string) ([]string, error) {
	out, err := output(ctx, "", "apt-get", "indextargets",
		"--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)", "Created-By: Packages")
	if err != nil {
		return nil, fmt.Errorf("reading the machine's apt sources: %w", err)
	}
	return sourceLines(out, suites)
}

// sourceLines reads `apt-get indextargets`. Backports and the release before are on the
// mirror that has the stable release, its security updates beside those of the stable one.
func sourceLines(targets string, suites []string) ([]string, error) {
	mirrors := map[string]string{}
	for line := range strings.Lines(targets) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		if len(fields) != 4 || fields[2] != "main" {
			continue
		}
		// Apt leaves an origin that it does not know yet as it was written.
		if fields[3] == "Debian" || strings.HasPrefix(fields[3], "$(") {
			mirrors[fields[1]] = fields[0]
		}
	}
	if mirrors[stable] == "" {
		return nil, fmt.Errorf("the apt sources of this machine have no Debian %s main", stable)
	}
	for suite, beside := range map[string]string{
		stable + "-backports":   stable,
		oldstable:               stable,
		oldstable + "-security": stable + "-security",
	} {
		if mirrors[suite] == "" {
			mirrors[suite] = mirrors[beside]
		}
	}
	var lines []string
	for _, suite := range suites {
		if mirrors[suite] != "" {
			lines = append(lines, fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, mirrors[suite], suite))
		}
	}
	return lines, nil
}

// image downloads the package behind the metapackage.
func (a *apt) image(ctx context.Context, version string) (string, error) {
	out, err := output(ctx, a.folder, "apt-cache", append(a.options, "depends", "--important", metapackage)...)
	if err != nil {
		return "", fmt.Errorf("resolving %s: %w", metapackage, err)
	}
	name, err := imageName(out, version)
	if err != nil {
		return "", err
	}
	if err := quiet(ctx, a.folder, "apt-get", append(a.options, "download", name)...); err != nil {
		return "", fmt.Errorf("downloading %s: %w", name, err)
	}
	return only(filepath.Join(a.folder, name+"_*.deb"))
}

// imageName reads `apt-cache depends`.
func imageName(depends, version string) (string, error) {
	for line := range strings.Lines(depends) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && strings.HasPrefix(name, "linux-image-"+version+".") {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s does not depend on a linux-image-%s: %q", metapackage, version, depends)
}

// quiet runs a command whose output matters only if it fails.
func quiet(ctx context.Context, folder, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func output(ctx context.Context, folder, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = folder
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}
