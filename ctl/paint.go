// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"io"
	"os"

	"golang.org/x/term"
)

// mark is what a text is painted for.
type mark int

const (
	plain mark = iota
	heading
	good
	doubtful
	bad
)

// painter paints texts for a terminal, and leaves them as they are for anything else.
type painter bool

// painterFor paints where w is a terminal whose user has not forbidden it (no-color.org).
func painterFor(w io.Writer) painter {
	return painter(isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb")
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// text is painted with the terminal's own colours (ECMA-48, SGR).
func (p painter) text(m mark, text string) string {
	codes := map[mark]string{heading: "1", good: "32", doubtful: "33", bad: "31"}
	code, painted := codes[m]
	if !bool(p) || !painted {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
