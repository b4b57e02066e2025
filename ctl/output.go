// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// outputs are the forms in which an answer is printed.
var outputs = []string{"table", "wide", "json", "yaml", "name"}

// addOutput adds the flag for one of some forms.
func addOutput(cmd *cobra.Command, into *string, forms []string) {
	cmd.Flags().StringVarP(into, "output", "o", forms[0], "one of "+strings.Join(forms, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
}

func checkOutput(output string, forms []string) error {
	if !slices.Contains(forms, output) {
		return usageError{fmt.Errorf("--output %q: want one of %s", output, strings.Join(forms, ", "))}
	}
	return nil
}

// view is what an answer is in each of its forms.
type view[T any] struct {
	// document is the answer for JSON and YAML.
	document any
	items    []T
	columns  []column[T]
	name     func(*T) string
}

// column is one of a table's columns.
type column[T any] struct {
	title string
	wide  bool // shown with -o wide only
	value func(*T) string
	// mark is how a value is painted; nil for not at all.
	mark func(*T) mark
}

func (v view[T]) render(w io.Writer, output string) error {
	switch output {
	case "json", "yaml":
		return renderDocument(w, v.document, output)
	case "name":
		var names strings.Builder
		for i := range v.items {
			fmt.Fprintln(&names, v.name(&v.items[i]))
		}
		_, err := io.WriteString(w, names.String())
		return err
	default:
		return v.renderTable(w, output == "wide")
	}
}

func (v view[T]) renderTable(w io.Writer, wide bool) error {
	shown := slices.DeleteFunc(slices.Clone(v.columns), func(c column[T]) bool { return c.wide && !wide })
	rows := [][]cell{make([]cell, len(shown))}
	for i, c := range shown {
		rows[0][i] = cell{c.title, heading}
	}
	for i := range v.items {
		row := make([]cell, len(shown))
		for n, c := range shown {
			row[n].text = dash(c.value(&v.items[i]))
			if c.mark != nil {
				row[n].mark = c.mark(&v.items[i])
			}
		}
		rows = append(rows, row)
	}
	_, err := io.WriteString(w, align(rows, painterFor(w)))
	return err
}

// cell is one of a table's.
type cell struct {
	text string
	mark mark
}

// align puts cells into columns, two blanks between them and none at the end of a line.
func align(rows [][]cell, paint painter) string {
	var widths columnWidths
	return widths.align(rows, paint)
}

// columnWidths are those of the columns of a table, of which there may come more.
type columnWidths []int

func (w *columnWidths) align(rows [][]cell, paint painter) string {
	for _, row := range rows {
		for i, c := range row {
			if i == len(*w) {
				*w = append(*w, 0)
			}
			(*w)[i] = max((*w)[i], utf8.RuneCountInString(c.text))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, c := range row {
			b.WriteString(paint.text(c.mark, c.text))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", (*w)[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func dash(value string) string {
	if value == "" {
		return "-"
	}
	return value
}

// renderDocument prints a value as JSON, as it is to be read by people too, or as YAML.
func renderDocument(w io.Writer, value any, output string) error {
	var document bytes.Buffer
	encoder := json.NewEncoder(&document)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(value)
	data := document.Bytes()
	if err == nil && output == "yaml" {
		data, err = yaml.JSONToYAML(data)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
