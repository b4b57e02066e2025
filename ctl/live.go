// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// live is weirctl top on a terminal.
type live struct {
	*topOptions
	out   *os.File
	paint painter
	// last are the two readings that are shown, the notice and error those of the later.
	before, after reading
	notice        string
	err           error
}

// taken is one reading as it came in.
type taken struct {
	reading
	notice string
	err    error
}

// live shows rates until q is pressed or a signal comes, and leaves the terminal as it
// was.
func (o *topOptions) live(cmd *cobra.Command) error {
	in, out := cmd.InOrStdin().(*os.File), cmd.OutOrStdout().(*os.File)
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("setting the terminal up: %w", err)
	}
	defer term.Restore(int(in.Fd()), before) //nolint:errcheck // nothing can be done about it
	fmt.Fprint(out, enterScreen)
	defer fmt.Fprint(out, leaveScreen)
	l := &live{topOptions: o, out: out, paint: painterFor(out)}
	return l.loop(ctx, in)
}

// Sequences of ECMA-48 and xterm: another screen without a cursor, and back.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

func (l *live) loop(ctx context.Context, in io.Reader) error {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys, readings := keysOf(ctx, in), l.readings(ctx)
	for {
		if err := l.draw(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
		case t := <-readings:
			l.take(t)
		case key, more := <-keys:
			if !more || !l.press(key) {
				return nil
			}
		}
	}
}

// readings are taken until ctx ends.
func (l *live) readings(ctx context.Context) <-chan taken {
	readings := make(chan taken)
	go func() {
		for ctx.Err() == nil {
			r, notice, err := l.topOptions.take(ctx)
			select {
			case readings <- taken{r, notice, err}:
			case <-ctx.Done():
				return
			}
			if sleep(ctx, l.every) != nil {
				return
			}
		}
	}()
	return readings
}

// keysOf are the keys that are pressed. The channel is closed when the terminal is gone.
func keysOf(ctx context.Context, in io.Reader) <-chan byte {
	keys := make(chan byte)
	go func() {
		defer close(keys)
		one := make([]byte, 1)
		for {
			if _, err := in.Read(one); err != nil {
				return
			}
			select {
			case keys <- one[0]:
			case <-ctx.Done():
				return
			}
		}
	}()
	return keys
}

func (l *live) take(t taken) {
	l.notice, l.err = t.notice, t.err
	if !t.at.IsZero() {
		l.before, l.after = l.after, t.reading
	}
}

const (
	controlC = 3
	controlD = 4
)

// press does what a key stands for; false to end.
func (l *live) press(key byte) bool {
	switch key {
	case 'q', 'Q', controlC, controlD:
		return false
	case 'r':
		l.sort = "rx"
	case 't':
		l.sort = "tx"
	case 'p':
		l.sort = "pps"
	case 'd':
		l.sort = "drops"
	case 'n':
		l.sort = "name"
	case 'b':
		l.by = groupings[(slices.Index(groupings, l.by)+1)%len(groupings)]
	}
	return true
}

// Where the size of a terminal cannot be had it is that of the oldest.
const (
	defaultWidth  = 80
	defaultHeight = 24
)

func (l *live) draw() error {
	width, height, err := term.GetSize(int(l.out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = defaultWidth, defaultHeight
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range l.screen(width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, err = io.WriteString(l.out, b.String())
	return err
}

// screen is the lines that fill a terminal at most.
func (l *live) screen(width, height int) []string {
	lines := []string{shorten(l.status(), width), ""}
	if problem := l.problem(); problem != "" {
		lines[1] = l.paint.text(doubtful, shorten(problem, width))
	}
	const keys = "q quit  sort: r RX  t TX  p packets  d drops  n name  b by"
	if l.before.at.IsZero() {
		lines = append(lines, shorten("waiting for the second reading", width))
	} else {
		lines = append(lines, layOut(l.arrange(ratesBetween(l.before, l.after)), l.by, width, l.paint)...)
	}
	if room := max(height-1, 1); len(lines) > room {
		lines = lines[:room]
	}
	return append(lines, l.paint.text(heading, shorten(keys, width)))
}

func (l *live) status() string {
	clock := "--:--:--"
	if !l.after.at.IsZero() {
		clock = l.after.at.Format(time.TimeOnly)
	}
	return fmt.Sprintf("weir %s  %d attachments  by %s, sorted by %s, every %s", clock, len(l.after.attachments), l.by, l.sort, l.every)
}

// problem is why the numbers may not be all there is.
func (l *live) problem() string {
	switch {
	case l.err != nil && !errors.Is(l.err, ErrPartial):
		return "not read: " + firstLine(l.err.Error())
	case l.err != nil:
		return firstLine(l.err.Error())
	default:
		return l.notice
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
