// SPDX-License-Identifier: Apache-2.0

package bugreport

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/weir-cni/weir/doctor"
)

// Options say where weir's things are, and what they are called in the archive.
type Options struct {
	doctor.Options
	// Name is the directory in the archive.
	Name string
	// Now is the time of its files.
	Now time.Time
}

// Part is one file of a report, or why there is none.
type Part struct {
	Name string `json:"name"`
	// What says what it holds.
	What string `json:"what"`
	Size int    `json:"size"`
	// Missing says why it is not there; empty when it is.
	Missing string `json:"missing,omitempty"`
}

// Write collects a report and writes it as a compressed archive. What cannot be collected
// is told in its part; the error is that of writing.
func Write(ctx context.Context, w io.Writer, o Options) ([]Part, error) {
	compressed := gzip.NewWriter(w)
	a := &archive{Options: o, tar: tar.NewWriter(compressed)}
	c := collector{ctx: ctx, Options: o}
	for _, s := range c.subjects() {
		a.add(s.name, s.what, s.collect)
	}
	for _, f := range c.files() {
		a.add(f.name, f.what, f.collect)
	}
	a.err = errors.Join(a.err, a.tar.Close(), compressed.Close())
	if a.err != nil {
		return nil, fmt.Errorf("writing the report: %w", a.err)
	}
	return a.parts, nil
}

// subject is what a part is collected of.
type subject struct {
	name, what string
	collect    func() ([]byte, error)
}

type archive struct {
	Options
	tar   *tar.Writer
	parts []Part
	err   error // the first of writing
}

func (a *archive) add(name, what string, collect func() ([]byte, error)) {
	if a.err != nil {
		return
	}
	text, err := collect()
	if err != nil {
		a.parts = append(a.parts, Part{Name: name, What: what, Missing: string(scrub([]byte(err.Error())))})
		return
	}
	text = scrub(text)
	a.parts = append(a.parts, Part{Name: name, What: what, Size: len(text)})
	header := &tar.Header{Name: path.Join(a.Name, name), Mode: 0o600, Size: int64(len(text)), ModTime: a.Now, Typeflag: tar.TypeReg}
	if a.err = a.tar.WriteHeader(header); a.err == nil {
		_, a.err = a.tar.Write(text)
	}
}
