package devicesuite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

func crashRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{
		{
			ID: "DEV-CRASH-001", Level: conformance.Must, Tier: conformance.Crash,
			Title: "registers again after each restart of the kubelet, with its devices",
			Spec: specOf(docs, "Handling kubelet restarts",
				"A device plugin is expected to detect kubelet restarts and re-register itself with the new kubelet instance. A new kubelet instance deletes all the existing Unix sockets under /var/lib/kubelet/device-plugins when it starts."),
			Check: with(checkKubeletRestart),
		},
		{
			ID: "DEV-CRASH-002", Level: conformance.Must, Tier: conformance.Crash,
			Title: "registers again after SIGKILL at any time, over the socket that it left",
			Spec: specOf(docs, "Device plugin deployment",
				"If you choose the DaemonSet approach you can rely on Kubernetes to: place the device plugin's Pod onto Nodes, to restart the daemon Pod after failure"),
			Check: with(checkKill),
		},
		{
			ID: "DEV-CRASH-003", Level: conformance.Advisory, Tier: conformance.Crash,
			Title: "gives its devices the same ids after a restart, by which a kubelet remembers who holds them",
			Spec: specOf(api, "Device",
				"A unique ID assigned by the device plugin used to identify devices during the communication"),
			Check: with(checkSameIDs),
		},
	}
}

// checkKubeletRestart restarts the kubelet twice: at once, and so that the plugin
// sees its streams break long before there is a kubelet to register with.
func checkKubeletRestart(ctx context.Context, b *bench) error {
	r, _, list, err := b.ready(ctx, "")
	if err != nil {
		return err
	}
	before, resource := idsOf(list), r.request.GetResourceName()
	for _, delay := range []time.Duration{0, time.Second} {
		if err := b.restart(ctx, delay); err != nil {
			return err
		}
		s, err := b.readyAgain(ctx, resource, before, noFewer)
		if err != nil {
			return fmt.Errorf("after the kubelet was down for %s: %w", delay, err)
		}
		if err := s.stays(ctx, 300*time.Millisecond); err != nil {
			return fmt.Errorf("after the kubelet was down for %s: %w", delay, err)
		}
	}
	return nil
}

// stays returns an error if the stream ends within d.
func (s *stream) stays(ctx context.Context, d time.Duration) error {
	end := time.After(d)
	for {
		select {
		case _, ok := <-s.lists:
			if !ok {
				return fmt.Errorf("ListAndWatch ended: %w; it should stay open", s.err)
			}
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkKill kills the plugin once it works, and then several times at random moments
// of its start.
func checkKill(ctx context.Context, b *bench) error {
	r, _, list, err := b.ready(ctx, "")
	if err != nil {
		return err
	}
	before, resource := idsOf(list), r.request.GetResourceName()
	for range 4 {
		b.plugin.Kill()
		b.drain()
		if err := pause(ctx, restartDelay+time.Duration(b.in.Rand.IntN(50))*time.Millisecond); err != nil {
			return err
		}
	}
	b.plugin.Kill()
	b.drain()
	if _, err := b.readyAgain(ctx, resource, before, noFewer); err != nil {
		return fmt.Errorf("after SIGKILL and a new start: %w", err)
	}
	return nil
}

func checkSameIDs(ctx context.Context, b *bench) error {
	r, _, list, err := b.ready(ctx, "")
	if err != nil {
		return err
	}
	b.plugin.Kill()
	b.drain()
	if _, err := b.readyAgain(ctx, r.request.GetResourceName(), idsOf(list), allOf); err != nil {
		return fmt.Errorf("after SIGKILL and a new start: %w", err)
	}
	return nil
}

// noFewer is what is expected of the devices after a restart: no sentence says that
// the ids stay the same. There may be more: a plugin's first list may come while it
// is still looking for devices.
func noFewer(before, after []string) bool { return len(before) <= len(after) }

// allOf reports whether everything that was there before still is.
func allOf(before, after []string) bool {
	return !slices.ContainsFunc(before, func(id string) bool { return !slices.Contains(after, id) })
}

// drain forgets registrations of instances that are dead by now.
func (b *bench) drain() {
	for {
		select {
		case <-b.kubelet.arrived:
		default:
			return
		}
	}
}
