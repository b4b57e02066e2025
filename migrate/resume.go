// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/weir-cni/weir/install"
)

// hasJournal is true as well for a journal that cannot be looked at.
func (p *Plan) hasJournal() bool {
	_, err := os.Lstat(journalPath(p.options.StateDir))
	return !errors.Is(err, fs.ErrNotExist)
}

// resume finds how far an earlier migration has come.
func (p *Plan) resume(all *found) {
	j, err := readJournal(p.options.StateDir)
	if err != nil {
		p.problem("%v", err)
		return
	}
	var done, back []Operation
	for _, s := range slices.Backward(j.Steps) {
		state, change, err := s.look()
		switch {
		case err != nil:
			p.problem("%v", err)
		case state == changed:
			p.problem("%s since the migration. weirctl migrate --revert --force brings back what there was before it", change)
		case state == doubled:
			p.problem("%s is there again since the migration. Take Multus's DaemonSet away, which writes it, then revert and migrate again", s.Path)
		case state == undone:
			p.Interrupted = true
		default:
			done = append(done, Operation{Do: s.Do, Path: s.Path, To: s.To})
			back = append(back, s.inverse())
		}
	}
	if len(p.Problems) == 0 && !p.Interrupted {
		p.checkFirst(all)
	}
	switch {
	case len(p.Problems) > 0:
		p.Interrupted = false
	case p.Interrupted:
		p.Operations = append(p.Operations, back...)
		p.Notes = append(p.Notes, "A migration of this node was cut off. --apply undoes what is done of it, and begins anew")
	default:
		slices.Reverse(done)
		p.Operations, p.Applied = append(p.Operations, done...), true
	}
}

// checkFirst sees that the runtime of a migrated node uses weir's entry.
func (p *Plan) checkFirst(all *found) {
	if len(all.broken) > 0 {
		p.problem("a file that cannot be read may go before weir's entry: %s", all.broken[0])
	}
	paths := slices.Clone(all.others)
	for _, m := range all.files {
		paths = append(paths, m.path)
	}
	if len(paths) == 0 {
		p.problem("weir's entry is gone, and there is no other configuration in %s", p.options.ConfDir)
		return
	}
	first := slices.Min(paths)
	if network, err := install.ReadNetwork(first); !isWeirs(network, err) {
		p.problem("the node is migrated, but the runtime reads %s first, and that is not weir's entry", first)
	}
}
