// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/state"
)

// answerTimeout bounds the wait for an agent that is there and does not answer;
// the pins are read then.
const answerTimeout = 10 * time.Second

// source is where attachments are read from: the agent or, where none answers, its
// records and pins.
type source struct {
	socket, stateDir, bpfDir string
}

func (s *source) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.socket, "socket", api.DefaultSocket, "the agent's socket")
	flags.StringVar(&s.stateDir, "state-dir", api.DefaultStateDir, "the agent's state, read when no agent answers")
	flags.StringVar(&s.bpfDir, "bpf-dir", api.DefaultBPFDir, "the agent's pins, read when no agent answers")
}

func (s *source) recordsDir() string { return filepath.Join(s.stateDir, state.RecordsDir) }

// answer is what a source has said.
type answer struct {
	list *api.AttachmentList
	// notice says why it was not the agent that answered; empty when it was.
	notice string
}

// read asks the agent, and the kernel where no agent answers. What is missing from the
// answer is named in an error that is ErrPartial.
func (s *source) read(ctx context.Context) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	list, err := inspect.FromAgent(ctx, s.socket)
	if !errors.Is(err, inspect.ErrNoAgent) {
		return answer{list: list}, err
	}
	notice := fmt.Sprintf("%v: reading the records in %s and the pins in %s", err, s.stateDir, s.bpfDir)
	list, err = inspect.FromPins(s.recordsDir(), s.bpfDir)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrPartial, err)
	}
	return answer{list, notice}, err
}

// attachments reads the source and tells who has answered where it was not the agent.
func (s *source) attachments(cmd *cobra.Command) (*api.AttachmentList, error) {
	a, err := s.read(cmd.Context())
	tell(cmd, a.notice)
	return a.list, err
}

// tell says what is not part of the answer.
func tell(cmd *cobra.Command, notice string) {
	if notice != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", cmd.Root().DisplayName(), notice)
	}
}
