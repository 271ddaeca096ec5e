package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// Change is what one transaction removes and then adds. What it adds must not exist,
// what it removes must.
type Change struct {
	Remove, Add []Element
}

func (c *Change) size() int { return len(c.Remove) + len(c.Add) }

// maxChange is how many elements one transaction changes, which the kernel accepts in
// one write; maxMessage is how many are in one of its messages.
const (
	maxChange  = 1000
	maxMessage = 100
)

// Decide makes a change that depends on what exists. The kernel applies it only if
// nobody has changed anything in the rulesets of the network namespace since plan was
// called; otherwise plan is called again after a pause, until ctx ends. So of two
// callers that want what only one can have, exactly one gets it, and the plan of the
// other sees that.
//
// Decide looks only at elements: a plan that adds some calls Ensure first, which
// counts as a change if it had anything to do. Even an empty change reflects a single
// moment. A change of more than 1,000 elements is made in several transactions, and
// an error of plan after the first one leaves a part: made says how far it came, also
// with an error.
func (c *Conn) Decide(ctx context.Context, rs *Ruleset, plan func() (Change, error)) (made Change, err error) {
	defined := false
	for lost := 0; ; {
		step, left, err := c.attempt(ctx, rs, plan)
		switch {
		case err == nil:
			made.Remove, made.Add = append(made.Remove, step.Remove...), append(made.Add, step.Add...)
			if !left {
				return made, nil
			}
			if step.size() > 0 {
				lost = 0
				continue
			}
		case errors.Is(err, unix.ENOENT) && len(step.Add) > 0 && !defined: // a set that no rule uses
			defined = true
			if err := rs.Define(); err != nil {
				return made, err
			}
			continue
		case !retried(err):
			return made, err
		}
		lost++
		select {
		case <-ctx.Done(): // the next attempt reports that
		case <-time.After(pause(lost)):
		}
	}
}

// attempt makes one transaction of the current plan. It returns what it changed or,
// with an error, would have changed, and whether more remains to be done.
func (c *Conn) attempt(ctx context.Context, rs *Ruleset, plan func() (Change, error)) (step Change, left bool, err error) {
	if err := ctx.Err(); err != nil {
		return step, false, fmt.Errorf("changing nftables table %q: %w", rs.Table, err)
	}
	generation, err := c.generation()
	if err != nil {
		return step, false, err
	}
	want, err := plan()
	if err != nil {
		return step, false, err
	}
	if want.size() == 0 {
		// What plan saw may have been half of somebody else's change.
		now, err := c.generation()
		return step, now != generation, err
	}
	step = want.first()
	if err := c.transactAt(generation, rs, &step); err != nil {
		return step, true, fmt.Errorf("changing nftables table %q: %w", rs.Table, err)
	}
	return step, step.size() < want.size(), nil
}

// first returns as much of the change as fits into one transaction.
func (c *Change) first() Change {
	out := Change{Remove: c.Remove[:min(len(c.Remove), maxChange)]}
	out.Add = c.Add[:min(len(c.Add), maxChange-len(out.Remove))]
	return out
}

// retried reports whether the error means that somebody else was faster.
func retried(err error) bool {
	return errors.Is(err, unix.ERESTART) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINTR) || errors.Is(err, nlsock.ErrInterrupted)
}

// transactAt makes the change if the rulesets still have that generation.
func (c *Conn) transactAt(generation uint32, rs *Ruleset, change *Change) error {
	messages := append(
		elementMessages(unix.NFT_MSG_DELSETELEM, 0, []Group{{rs, change.Remove}}),
		elementMessages(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, []Group{{rs, change.Add}})...)
	batch := framed("changing elements", messages)
	batch[0].Bytes(unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, generation))
	answers, err := c.socket.Exchange(batch...)
	return errors.Join(err, firstError(answers))
}

func firstError(answers []nlsock.Answer) error {
	for _, a := range answers {
		if a.Err != nil {
			return a.Err
		}
	}
	return nil
}

// generation returns the number that every change of a ruleset increments.
func (c *Conn) generation() (uint32, error) {
	answers, err := c.socket.Exchange(message("asking for nftables", unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC))
	if err != nil {
		return 0, err
	}
	a := answers[0]
	if a.Err != nil || len(a.Replies) == 0 || len(a.Replies[0]) < headerLen {
		return 0, errors.Join(fault.Internal.Errorf("nftables did not tell its generation"), a.Err)
	}
	id := nlsock.Attr(a.Replies[0][headerLen:], unix.NFTA_GEN_ID)
	if len(id) != 4 {
		return 0, fault.Internal.Errorf("nftables told its generation in %d bytes", len(id))
	}
	return binary.BigEndian.Uint32(id), nil
}
