package image

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
)

// Pin sets which images a kubelet's garbage collection must spare: those whose name,
// digest or ID matches one of patterns, in which * matches any text, including slashes. A
// pattern without * may be a short name, as in Pull; the others are compared with full
// names. Each call replaces the patterns of earlier ones.
//
// The patterns are kept in the store, for everybody who has it open. Pinning only marks
// images: Remove removes a pinned image, too. If a pattern cannot match any image, the
// error is fault.Invalid.
func (s *Store) Pin(ctx context.Context, patterns []string) error {
	full := make([]string, len(patterns))
	for i, p := range patterns {
		full[i] = p
		if strings.Contains(p, "*") {
			continue
		}
		if full[i] = imageID(p); full[i] != "" {
			continue
		}
		var err error
		if full[i], err = content.Normalize(p); err != nil {
			return fmt.Errorf("pinning images: %w", err)
		}
	}
	full = union(full, nil)
	if snap, err := s.read(); err == nil && slices.Equal(snap.pinned, full) {
		return nil
	}
	err := s.update(ctx, func(next *index) error {
		next.Pinned = full
		return nil
	})
	if err != nil {
		return fmt.Errorf("pinning images: %w", s.explainDisk(err))
	}
	return nil
}

func (sn *snapshot) isPinned(id string) bool {
	rec := sn.images[id]
	names := slices.Concat([]string{id}, rec.Names, rec.Digests)
	return slices.ContainsFunc(sn.pinned, func(pattern string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return matches(pattern, n) })
	})
}

// matches reports whether name matches pattern.
func matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	name = name[len(first) : len(name)-len(last)]
	for _, p := range parts[1 : len(parts)-1] {
		at := strings.Index(name, p)
		if at < 0 {
			return false
		}
		name = name[at+len(p):]
	}
	return true
}
