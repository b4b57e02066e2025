// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// unbounded is the width of what is no terminal.
const unbounded = math.MaxInt

// topColumn is one of a list of rates.
type topColumn struct {
	title   string
	value   func(*rate) string
	numeric bool // to the right, and never cut
}

// countTitle is that of the number of attachments.
const countTitle = "ATT"

func topColumns(by string) []topColumn {
	pod := topColumn{title: "POD", value: func(r *rate) string { return r.Pod }}
	netif := topColumn{title: "IF", value: func(r *rate) string { return r.Interface }}
	network := topColumn{title: "NETWORK", value: shortNetwork}
	count := topColumn{title: countTitle, value: func(r *rate) string { return strconv.Itoa(r.Attachments) }, numeric: true}
	columns := map[string][]topColumn{
		byAttachment: {pod, netif, network}, byNetwork: {network, count}, byPod: {pod, count},
	}[by]
	return append(columns,
		topColumn{"RXbit/s", func(r *rate) string { return humanRate(r.ReceiveBits) }, true},
		topColumn{"TXbit/s", func(r *rate) string { return humanRate(r.TransmitBits) }, true},
		topColumn{"PKT/s", func(r *rate) string { return humanRate(r.packets()) }, true},
		topColumn{"DROP/s", func(r *rate) string { return humanRate(r.Drops) }, true},
	)
}

// shortNetwork leaves out a namespace that is the pod's.
func shortNetwork(r *rate) string {
	if namespace := namespaceOf(r.Pod); namespace != "" {
		return strings.TrimPrefix(r.Network, namespace+"/")
	}
	return r.Network
}

// humanRate has at most six characters.
func humanRate(n float64) string {
	const unit = 1000
	switch {
	case n == 0:
		return "0"
	case n < 9.95:
		return fmt.Sprintf("%.1f", n)
	case n < unit-0.5:
		return fmt.Sprintf("%.0f", n)
	}
	prefixes, place := "kMGTPE", 0
	// What would be rounded up to 1000.0 is 1.0 of the next.
	for n /= unit; n >= unit-0.05 && place < len(prefixes)-1; n /= unit {
		place++
	}
	return fmt.Sprintf("%.1f%c", n, prefixes[place])
}

// layOut makes lines of rates that are no longer than the width, the titles first. Names
// are cut in the middle, as their ends tell more.
func layOut(rates []rate, by string, width int, paint painter) []string {
	columns := topColumns(by)
	cells := [][]string{make([]string, len(columns))}
	for i, c := range columns {
		cells[0][i] = c.title
	}
	for i := range rates {
		row := make([]string, len(columns))
		for n, c := range columns {
			row[n] = dash(c.value(&rates[i]))
		}
		cells = append(cells, row)
	}
	widths := fit(columns, cells, width)
	var lines []string
	for i, row := range cells {
		line := joinRow(columns, row, widths)
		switch {
		case i == 0:
			line = paint.text(heading, line)
		case rates[i-1].Drops > 0:
			line = paint.text(bad, line)
		}
		lines = append(lines, line)
	}
	return lines
}

func joinRow(columns []topColumn, row []string, widths []int) string {
	parts := make([]string, len(row))
	for i, text := range row {
		text = shorten(text, widths[i])
		pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
		if columns[i].numeric {
			parts[i] = pad + text
		} else {
			parts[i] = text + pad
		}
	}
	return strings.Join(parts, " ")
}

const (
	// leastColumn is the width below which no name is cut.
	leastColumn = 4
	// numberColumn is the width of numbers, which shall not dance.
	numberColumn = 7
)

// fit finds the widths of columns, of which the widest name gives way first.
func fit(columns []topColumn, cells [][]string, width int) []int {
	widths := make([]int, len(columns))
	sum := len(columns) - 1
	for i, c := range columns {
		if c.numeric && c.title != countTitle {
			widths[i] = numberColumn
		}
		for _, row := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		sum += widths[i]
	}
	for ; sum > width; sum-- {
		widest := -1
		for i, c := range columns {
			if !c.numeric && widths[i] > leastColumn && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

// shorten cuts the middle out of a text that is too long.
func shorten(text string, width int) string {
	letters := []rune(text)
	if len(letters) <= width {
		return text
	}
	if width < 1 {
		return ""
	}
	head := (width - 1) / 2
	return string(letters[:head]) + "…" + string(letters[len(letters)-(width-1-head):])
}
