package cnisuite

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/nodekit-project/nodekit/conformance"
)

// killings kills the given number of executions of ADD and DEL, each followed by the
// DEL that a runtime sends again, and then some that are left to GC, if there is one:
// few at a time, because there may be few addresses.
func killings(rounds int) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		lost, err := l.capacity(ctx)
		if err != nil {
			return err
		}
		hits := 0
		for i := range rounds {
			c, victim, killed, err := l.killOne(ctx, i)
			if err != nil {
				return err
			}
			if killed {
				hits++
			}
			if err := l.del(ctx, c, fmt.Sprintf("DEL after a kill of %s", victim)); err != nil {
				return err
			}
		}
		if err := lost(ctx); err != nil {
			return fmt.Errorf("after DEL: %w", err)
		}
		if l.hasGC() != nil {
			return hit(hits, rounds)
		}
		const atOnce = 2
		for i := range max(rounds/4, atOnce) {
			if _, _, _, err := l.killOne(ctx, i); err != nil {
				return err
			}
			if i%atOnce < atOnce-1 {
				continue
			}
			if err := l.collectKilled(ctx); err != nil {
				return err
			}
		}
		if err := l.collectKilled(ctx); err != nil {
			return err
		}
		if err := lost(ctx); err != nil {
			return fmt.Errorf("after GC: %w", err)
		}
		return hit(hits, rounds)
	}
}

// capacity records how many addresses there are or, if that is not known, the state
// of the plugin's files. The function that it returns reports a loss.
func (l *lab) capacity(ctx context.Context) (func(context.Context) error, error) {
	if err := l.isIPAM(); err != nil {
		return nil, err
	}
	if l.target.Exhaustible == "" {
		before, err := l.baseline(ctx)
		return func(ctx context.Context) error { return l.clean(ctx, before) }, err
	}
	count := func(ctx context.Context) (int, error) {
		keys, err := l.small()
		if err != nil {
			return 0, err
		}
		all, _, err := l.drain(ctx, keys)
		return len(all), errors.Join(err, l.giveBack(ctx, all...))
	}
	first, err := count(ctx)
	return func(ctx context.Context) error {
		now, err := count(ctx)
		if err == nil && now != first {
			err = fmt.Errorf("%d addresses of %d are left", now, first)
		}
		return err
	}, err
}

// killOne kills an ADD, or in one of three rounds the DEL of an attachment.
func (l *lab) killOne(ctx context.Context, round int) (c *container, victim string, killed bool, err error) {
	if c, err = l.newContainer(); err != nil {
		return nil, "", false, err
	}
	if l.target.Exhaustible != "" {
		if c.keys, err = l.small(); err != nil {
			return nil, "", false, err
		}
	}
	victim = "ADD"
	if round%3 == 1 {
		victim = "DEL"
		_, out, err := l.takeFor(ctx, c, with{})
		if err != nil {
			return nil, "", false, err
		}
		if out.rc != 0 {
			return nil, "", false, fmt.Errorf("no address is left after %d kills: %s", round, out)
		}
	}
	stdin, err := l.document(victim, c, nil)
	if err != nil {
		return nil, "", false, err
	}
	out, err := l.execKilled(ctx, l.env(victim, c), stdin, l.moment(victim), syscall.SIGKILL, true)
	return c, victim, err == nil && out.killed, err
}

// collectKilled runs a GC for which no attachment is valid.
func (l *lab) collectKilled(ctx context.Context) error {
	w := with{keys: attachments()}
	if l.target.Exhaustible != "" {
		keys, err := l.small()
		if err != nil {
			return err
		}
		maps.Copy(w.keys, keys)
	}
	out, err := l.call(ctx, "GC", nil, w)
	if err != nil {
		return err
	}
	return out.ok(nil)
}

// checkIsolated has the same attachment in two networks.
func checkIsolated(ctx context.Context, l *lab) error {
	if err := l.isIPAM(); err != nil {
		return err
	}
	mine, err := l.newContainer()
	if err != nil {
		return err
	}
	theirs := *mine
	theirs.keys = map[string]any{"name": l.network("other")}
	l.made = append(l.made, &theirs)
	held, out, err := l.takeFor(ctx, &theirs, with{})
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	keep, err := l.holdings(ctx, held.c, with{})
	if err != nil {
		return err
	}
	if _, err := l.add(ctx, mine); err != nil {
		return err
	}
	if err := l.del(ctx, mine, "DEL in one network"); err != nil {
		return err
	}
	if l.hasGC() == nil {
		if err := l.collect(ctx); err != nil {
			return err
		}
	}
	return keep.kept(ctx, l)
}

// checkGCReleases takes all addresses of a network whose containers then disappear.
func checkGCReleases(ctx context.Context, l *lab) error {
	keys, err := l.small()
	if err := cmp.Or(err, l.hasGC()); err != nil {
		return err
	}
	all, _, err := l.drain(ctx, keys)
	if err != nil {
		return err
	}
	valid := all[:len(all)/2]
	w := with{keys: attachments(containersOf(valid)...)}
	maps.Copy(w.keys, keys)
	out, err := l.call(ctx, "GC", nil, w)
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	again, _, err := l.drain(ctx, keys)
	if err != nil {
		return err
	}
	if err := distinct(append(slices.Clone(valid), again...)); err != nil {
		return fmt.Errorf("GC released a valid attachment: %w", err)
	}
	switch want := len(all) - len(valid); {
	case len(again) == 0:
		return fmt.Errorf("not implemented: GC succeeded and released none of %d addresses", want)
	case len(again) < want:
		return fmt.Errorf("GC released %d addresses of %d", len(again), want)
	}
	return nil
}

func containersOf(all []lease) []*container {
	var out []*container
	for _, got := range all {
		out = append(out, got.c)
	}
	return out
}

// checkCorruption empties the files of an attachment, as a power failure does.
func checkCorruption(ctx context.Context, l *lab) error {
	if err := l.isIPAM(); err != nil {
		return err
	}
	if _, err := l.baseline(ctx); err != nil {
		return err
	}
	got, out, err := l.take(ctx, nil)
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	files, err := l.filesOf(got.c)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return conformance.NotApplicable("no file of the plugin's names the container")
	}
	for _, path := range files {
		if err := os.Truncate(path, 0); err != nil {
			return err
		}
	}
	about := []string{got.c.id}
	for _, path := range files {
		about = append(about, filepath.Base(path))
	}
	for _, address := range got.result.addresses() {
		about = append(about, address.String())
	}
	reported, err := l.reports(ctx, got.c, about)
	if err != nil || reported {
		return err
	}
	for _, path := range files {
		if info, err := os.Stat(path); err == nil && info.Size() > 0 {
			return nil // repaired
		}
	}
	return fmt.Errorf("neither STATUS nor CHECK said a word after %v lost their content", files)
}

// reports reports whether STATUS or CHECK fails, or logs something about the given
// names.
func (l *lab) reports(ctx context.Context, c *container, about []string) (bool, error) {
	for _, command := range []string{"STATUS", "CHECK"} {
		var of *container
		since := l.hasStatus()
		if command == "CHECK" {
			of, since = c, l.hasCheck()
		}
		if since != nil {
			continue
		}
		out, err := l.call(ctx, command, of, with{})
		if err != nil {
			return false, err
		}
		named := func(word string) bool { return strings.Contains(string(out.stderr), word) }
		if out.rc != 0 || slices.ContainsFunc(about, named) {
			return true, nil
		}
	}
	return false, nil
}

// filesOf returns the plugin's files that have the container's id in their names or
// content.
func (l *lab) filesOf(c *container) ([]string, error) {
	return l.filesWith(func(path string, text []byte) bool {
		return strings.Contains(path, c.id) || bytes.Contains(text, []byte(c.id))
	})
}

// filesWith returns the plugin's files that match.
func (l *lab) filesWith(such func(path string, text []byte) bool) ([]string, error) {
	var found []string
	for _, dir := range append([]string{l.state()}, l.target.Dirs...) {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if err == nil && such(path, text) {
				found = append(found, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return found, nil
}
