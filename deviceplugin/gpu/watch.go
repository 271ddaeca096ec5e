package gpu

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/nodekit-project/nodekit/deviceplugin"
)

// recheckEvery is the polling period behind inotify, which does not notice when
// something is mounted over /dev.
const recheckEvery = 10 * time.Second

// watch reports the health of the GPUs whenever a device node appears or disappears.
func (o *offer) watch(ctx context.Context, update func([]deviceplugin.Device) error) error {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching device nodes: %w", err)
	}
	defer events.Close()
	mine := map[string]bool{}
	for _, g := range o.gpus {
		for _, n := range g.nodes {
			mine[n.HostPath] = true
			if dir := filepath.Dir(n.HostPath); exists(dir) {
				if err := events.Add(dir); err != nil {
					return fmt.Errorf("watching %q: %w", dir, err)
				}
			}
		}
	}
	recheck := time.NewTicker(recheckEvery)
	defer recheck.Stop()
	health := map[string]bool{}
	for {
		if err := update(o.devices(health)); err != nil {
			return err
		}
		for changed := false; !changed; { // /dev is a busy place
			select {
			case <-ctx.Done():
				return nil
			case e := <-events.Events:
				changed = mine[e.Name]
			case err := <-events.Errors: // an overflow: events were lost
				o.config.Logger.Debug("looking at all device nodes again", "err", err)
				changed = true
			case <-recheck.C:
				changed = true
			}
		}
	}
}

// devices returns the list, and logs the GPUs whose health has changed since the last
// call.
func (o *offer) devices(before map[string]bool) []deviceplugin.Device {
	var out []deviceplugin.Device
	for _, g := range o.gpus {
		d := deviceplugin.Device{ID: g.id, Unhealthy: !g.healthy()}
		if g.numa >= 0 {
			d.NUMA = []int{g.numa}
		}
		if was, known := before[g.id]; d.Unhealthy != was && (known || d.Unhealthy) {
			o.config.Logger.Warn("the health of a GPU changed", "device", g.id, "unhealthy", d.Unhealthy)
		}
		before[g.id] = d.Unhealthy
		out = append(out, d)
	}
	return out
}
