// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"log/slog"
	"sync"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/sockopt"
)

// sockets keeps the pods whose guards are inside their namespaces from sending round them.
type sockets struct {
	log *slog.Logger

	mu      sync.Mutex
	denial  *sockopt.Denial // nil while nobody is kept
	missing bool            // the kernel cannot, which was said
	kept    map[attachment.ID]keeping
}

// keeping is what one attachment has to say of its namespace.
type keeping struct {
	cookie    uint64
	goesRound bool // its network gives leave, which the namespace then has
}

func newSockets(log *slog.Logger) *sockets {
	return &sockets{log: log, kept: map[attachment.ID]keeping{}}
}

// Keep has the sockets of an attachment's namespace denied what goes round its guard,
// whose pins are in dir. Where that cannot be, it is logged: the guard is in force all
// the same.
func (s *sockets) Keep(id attachment.ID, dir string, pod *netns.Namespace, goesRound bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missing {
		return
	}
	if err := s.keep(id, dir, pod, goesRound); err != nil {
		s.log.Warn("the pod's sockets can send past its guard", "container_id", id.ContainerID, "netif", id.Interface, "err", err)
	}
}

func (s *sockets) keep(id attachment.ID, dir string, pod *netns.Namespace, goesRound bool) error {
	cookie, err := sockopt.Cookie(pod)
	if err != nil {
		return err
	}
	if s.denial == nil {
		if s.denial, err = openDenial(dir); err != nil {
			s.missing = true
			return err
		}
	}
	s.kept[id] = keeping{cookie: cookie, goesRound: goesRound}
	if err := s.settle(cookie); err != nil {
		return err
	}
	// Last, as it may take the place of an earlier agent's, which is in force till then.
	return s.denial.Pin(dir)
}

// openDenial opens what an earlier agent has pinned beside a guard, or makes it. What
// cannot be opened is another kernel's or half made.
func openDenial(dir string) (*sockopt.Denial, error) {
	if d, err := sockopt.Open(dir); err == nil {
		return d, nil
	}
	return sockopt.Attach()
}

// Release ends what Keep began. It is called once the pins are gone.
func (s *sockets) Release(id attachment.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, known := s.kept[id]
	if !known {
		return nil
	}
	delete(s.kept, id)
	if len(s.kept) == 0 {
		return s.close()
	}
	return s.settle(was.cookie)
}

// settle has a namespace denied what it is to be denied: all, unless one of its
// attachments has leave.
func (s *sockets) settle(cookie uint64) error {
	denied := false
	for _, k := range s.kept {
		if k.cookie != cookie {
			continue
		}
		if k.goesRound {
			return s.denial.Leave(cookie)
		}
		denied = true
	}
	if denied {
		return s.denial.Deny(cookie)
	}
	return s.denial.Leave(cookie)
}

// Forget drops the namespaces that no attachment speaks of: those that an earlier agent
// had begun to release.
func (s *sockets) Forget() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.denial == nil {
		return nil
	}
	denied, err := s.denial.Denied()
	if err != nil {
		return err
	}
	for _, cookie := range denied {
		err = errors.Join(err, s.settle(cookie))
	}
	return err
}

// Close lets go of the program; what is pinned stays in force.
func (s *sockets) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close()
}

func (s *sockets) close() error {
	if s.denial == nil {
		return nil
	}
	err := s.denial.Close()
	s.denial = nil
	return err
}
