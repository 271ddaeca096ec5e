package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// recordVersion is the version of the record format. A newer one is refused.
const recordVersion = 1

// record is an attachment as ADD was asked for it, with the chain's result once
// there is one. It is the data of the intent and the content of the cache file:
// DEL and CHECK must see the same parameters and configuration (CNI 1.1.0,
// section 3).
type record struct {
	Version    int             `json:"version"`
	Attachment Attachment      `json:"attachment"`
	List       *list           `json:"list"`
	Result     json.RawMessage `json:"result,omitempty"`
	Attempt    string          `json:"attempt,omitempty"` // tells the ADDs of one attachment apart
	Lacked     []string        `json:"lacked,omitempty"`  // the types of IPAM plugins that were nowhere when the ADD began

	recorded bool // its ADD has succeeded: its file is there, whole or not
}

// context attributes calls to the attachment's Pod, if it has one.
func (r *record) context(ctx context.Context) context.Context {
	if r.Attachment.Pod.IsZero() {
		return ctx
	}
	return call.WithPod(ctx, r.Attachment.Pod)
}

// records is the cache of results: one file for each attachment, in
// <dir>/<container>:<interface>.json. Neither name can have a colon. CNI has no limit
// for the id of a container: where a file's name has no room for it, there is
// <dir>/~<hash of both>.json, and the record tells whose it is.
type records struct{ dir string }

const (
	separator = ":"
	suffix    = ".json"
	hashed    = "~" // begins no name of CNI
	// longest is NAME_MAX less what atomicfile adds while it writes: the dot, ".tmp"
	// and a number of ten digits.
	longest = 255 - 15
)

func (rs records) path(a cni.Attachment) string {
	name := a.ContainerID + separator + a.IfName
	if len(name)+len(suffix) > longest {
		name = fmt.Sprintf("%s%x", hashed, sha256.Sum256([]byte(name)))
	}
	return filepath.Join(rs.dir, name+suffix)
}

// put stores the record. The death of the process does not take it any more; a loss
// of power does until it is synced.
func (rs records) put(r *record) error {
	data, err := encode(r)
	if err == nil {
		err = atomicfile.Replace(rs.path(r.Attachment.key()), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recording attachment: %w", err)
	}
	return nil
}

// get returns the record. None is fault.NotFound, a damaged one fault.Invalid.
func (rs records) get(a cni.Attachment) (*record, error) {
	path := rs.path(a)
	r, err := readRecord(path)
	if err == nil && r.Attachment.key() != a {
		return nil, fault.Invalid.Errorf("attachment record in %q is damaged: it is about %q", path, r.Attachment.key())
	}
	return r, err
}

func readRecord(path string) (*record, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.NotFound.Errorf("reading attachment: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading attachment: %w", err)
	}
	r, err := decodeRecord(data, path)
	if err == nil {
		r.recorded = true
	}
	return r, err
}

func decodeRecord(data []byte, from string) (*record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fault.Invalid.Errorf("attachment record in %q is damaged: %w", from, err)
	}
	if r.Version > recordVersion {
		return nil, fault.FailedPrecondition.Errorf("attachment record in %q has version %d, and this program reads %d: use the version that wrote it",
			from, r.Version, recordVersion)
	}
	if r.List == nil {
		return nil, fault.Invalid.Errorf("attachment record in %q is damaged: it has no configuration", from)
	}
	if err := r.List.checkPlugins(false); err != nil {
		return nil, fault.Invalid.Errorf("attachment record in %q is damaged: %w", from, err)
	}
	return &r, nil
}

func (rs records) progressPath(a cni.Attachment) string {
	return strings.TrimSuffix(rs.path(a), suffix) + ".progress"
}

// keepProgress keeps the result so far of an ADD for the DEL that a kill makes due. A
// loss of power may take it: it takes what plugins have made, too.
func (rs records) keepProgress(a cni.Attachment, result json.RawMessage) error {
	if err := os.WriteFile(rs.progressPath(a), result, 0o600); err != nil {
		return fmt.Errorf("recording the attachment's progress: %w", err)
	}
	return nil
}

// progress returns what was kept; nil when there is nothing, or half of it.
func (rs records) progress(a cni.Attachment) json.RawMessage {
	data, err := os.ReadFile(rs.progressPath(a))
	if err != nil || !json.Valid(data) {
		return nil
	}
	return data
}

// dropProgress is for an ADD that is over. What cannot be removed harms nobody.
func (rs records) dropProgress(a cni.Attachment) { _ = os.Remove(rs.progressPath(a)) }

// remove forgets the attachment. It succeeds when there is none. A loss of power may
// bring the record back, and the DEL that is due for it then succeeds at once.
func (rs records) remove(a cni.Attachment) error {
	if err := os.Remove(rs.path(a)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting attachment: %w", err)
	}
	return nil
}

// keys returns the attachments that are recorded, whatever their records are worth.
// Only of a damaged one whose file is named by a hash nobody can tell whose it is: it is
// part of the error, and Detach of the attachment removes it.
func (rs records) keys() ([]cni.Attachment, error) {
	files, err := os.ReadDir(rs.dir)
	if err != nil {
		return nil, fmt.Errorf("listing attachments: %w", err)
	}
	var keys []cni.Attachment
	var errs []error
	for _, f := range files {
		name, is := strings.CutSuffix(f.Name(), suffix)
		container, ifname, both := strings.Cut(name, separator)
		switch {
		case is && both:
			keys = append(keys, cni.Attachment{ContainerID: container, IfName: ifname})
		case is && strings.HasPrefix(name, hashed):
			key, err := rs.owner(filepath.Join(rs.dir, f.Name()))
			if err == nil {
				keys = append(keys, key)
			} else if !errors.Is(err, fault.NotFound) { // detached just now
				errs = append(errs, fmt.Errorf("listing attachments: %w", err))
			}
		}
	}
	return keys, errors.Join(errs...)
}

// owner returns whose record a file is that is named by a hash.
func (rs records) owner(path string) (cni.Attachment, error) {
	r, err := readRecord(path)
	if err != nil {
		return cni.Attachment{}, err
	}
	key := r.Attachment.key()
	if rs.path(key) != path {
		return key, fault.Invalid.Errorf("attachment record in %q is damaged: it is about %q", path, key)
	}
	return key, nil
}

// clean removes what interrupted writes left.
func (rs records) clean() error { return atomicfile.Clean(rs.dir) }
