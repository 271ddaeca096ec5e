package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// cmdRepair is the method under which observers see the repair of a built-in plugin.
// It is not a CNI verb, and no plugin is ever executed with it.
const cmdRepair = "REPAIR"

// Watch checks all attachments once per interval until ctx ends, and has built-in
// plugins repair what their CHECK finds missing. The checks of one round are spread
// over the interval, so that a thousand attachments cause no burst. Watch logs what it
// finds once per change and reports every call to the observer. If the interval is zero
// or less, it returns at once.
//
// Nothing depends on Watch: it is for runtimes that cannot otherwise notice, for
// example, that an administrator flushed the rules of a running Pod.
func (n *Network) Watch(ctx context.Context, interval time.Duration) {
	if interval <= 0 {
		return
	}
	said := map[cni.Attachment]string{}
	for {
		keys, err := n.records.keys()
		if err != nil {
			n.config.Logger.Error("listing the attachments to check", "err", err)
		}
		pause := interval / time.Duration(max(1, len(keys)))
		found := map[cni.Attachment]string{}
		for _, key := range append(keys, cni.Attachment{})[:max(1, len(keys))] {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			if key != (cni.Attachment{}) {
				found[key] = n.watchOne(ctx, key, said[key])
			}
		}
		said = found
	}
}

// watchOne checks one attachment and returns what is wrong with it, which it does not
// log again if it equals said.
func (n *Network) watchOne(ctx context.Context, key cni.Attachment, said string) string {
	log := n.config.Logger.With("container", key.ContainerID, "interface", key.IfName)
	repaired, err := n.CheckAndRepair(ctx, Attachment{ContainerID: key.ContainerID, IfName: key.IfName})
	for _, r := range repaired {
		log.Warn("repaired an attachment", "plugin", r.Plugin, "missed", r.Missed)
	}
	if err == nil || errors.Is(err, fault.NotFound) || ctx.Err() != nil { // it may have been detached since
		return ""
	}
	if err.Error() != said {
		log.Error("an attachment is not as it should be", "err", err)
	}
	return err.Error()
}

// Repaired is one repair made by CheckAndRepair.
type Repaired struct {
	Plugin string
	Missed error // the error of CHECK
}

// CheckAndRepair is Check with repair. If CHECK of a built-in plugin with Repair fails,
// the plugin repairs its part and is checked again; each plugin gets one chance. A
// repair never changes an address. An executed plugin is never repaired: that would
// take a DEL and an ADD, which would break the Pod's connections.
//
// The error is that of the last CHECK, or the reason why the repair failed.
func (n *Network) CheckAndRepair(ctx context.Context, a Attachment) ([]Repaired, error) {
	ctx, leave, err := n.enter(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("checking %q: %w", a.key(), err)
	}
	defer leave()
	r, err := n.records.get(a.key())
	if err != nil {
		return nil, fmt.Errorf("checking %q: %w", a.key(), err)
	}
	if !r.checkable() {
		return nil, nil
	}
	repaired, err := n.repairChain(r.context(ctx), r)
	if err != nil {
		return repaired, fmt.Errorf("checking %q: %w", a.key(), err)
	}
	return repaired, nil
}

// repairChain checks the plugins in order, repairs those that can be repaired, and
// continues after one whose CHECK then succeeds.
func (n *Network) repairChain(ctx context.Context, r *record) (repaired []Repaired, err error) {
	for next := 0; ; next++ {
		failed, missed := n.runCheck(ctx, r, next)
		if missed == nil {
			return repaired, nil
		}
		p := r.List.Plugins[failed]
		if !n.repairable(p) {
			return repaired, missed
		}
		if err := n.repairPlugin(ctx, r, p); err != nil {
			return repaired, errors.Join(missed, err)
		}
		repaired, next = append(repaired, Repaired{p.kind(), missed}), failed
	}
}

func (n *Network) repairable(p plugin) bool {
	b := n.config.Builtin[p.kind()]
	return b != nil && b.Repair != nil
}

// repairPlugin repairs one plugin's part of the attachment and checks it.
func (n *Network) repairPlugin(ctx context.Context, r *record, p plugin) error {
	stdin, err := request(r, p, r.Result)
	if err != nil {
		return err
	}
	env := n.env(cni.CmdCheck, r.Attachment)
	_, err = n.observed(ctx, p.kind(), cmdRepair, env, func(ctx context.Context) ([]byte, error) {
		caller, done := n.caller(p.kind(), env)
		defer done()
		return n.strays.bounded(ctx, strayOf(p.kind(), cmdRepair, env), func(ctx context.Context) ([]byte, error) {
			return nil, caller.Repair(ctx, p.kind(), env, stdin)
		})
	})
	if err != nil {
		return err
	}
	if _, err = n.call(ctx, p, n.env(cni.CmdCheck, r.Attachment), stdin); err != nil {
		return fmt.Errorf("after its repair: %w", err)
	}
	return nil
}
