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
	"github.com/nodekit-project/nodekit/internal/topdir"
)

// recordVersion is the version of the record format. Newer records are refused.
const recordVersion = 1

// record is an attachment as ADD was asked for it, with the chain's result once there
// is one. It is the data of the intent and the content of the cache file: DEL and
// CHECK must see the same parameters and configuration (CNI 1.1.0, section 3).
type record struct {
	Version    int             `json:"version"`
	Attachment Attachment      `json:"attachment"`
	List       *list           `json:"list"`
	Result     json.RawMessage `json:"result,omitempty"`
	Attempt    string          `json:"attempt,omitempty"` // distinguishes the ADDs of one attachment
	Lacked     []string        `json:"lacked,omitempty"`  // the types of IPAM plugins that did not exist when the ADD began

	recorded bool // its ADD has succeeded: its file exists, whole or not
}

// context attributes calls to the attachment's Pod, if it has one.
func (r *record) context(ctx context.Context) context.Context {
	if r.Attachment.Pod.IsZero() {
		return ctx
	}
	return call.WithPod(ctx, r.Attachment.Pod)
}

// records is the cache of results: one file per attachment,
// <dir>/<container>:<interface>.json. Neither name can contain a colon. CNI does not
// limit the length of container ids: if a file name would be too long, the file is
// <dir>/~<hash of both>.json, and the record says whose it is.
type records struct {
	dir    string
	spread topdir.Spread
}

func recordsIn(stateDir string) records {
	return records{filepath.Join(stateDir, "attachments"), topdir.Spread(filepath.Join(stateDir, "spread"))}
}

const (
	separator = ":"
	suffix    = ".json"
	hashed    = "~" // no name in CNI begins with it
	// longest is NAME_MAX less what atomicfile adds while it writes: a dot, ".tmp"
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

// put stores the record. From then on it survives the death of the process, but not a
// power failure until it is synced.
func (rs records) put(r *record) error {
	data, err := encode(r)
	if err == nil {
		err = rs.spread.Put(rs.path(r.Attachment.key()), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recording attachment: %w", err)
	}
	return nil
}

// get returns the record. If there is none, the error is fault.NotFound; if it is
// damaged, fault.Invalid.
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

// keepProgress stores the result so far of an ADD for the DEL that a kill makes due.
// A power failure may lose it: that also destroys what the plugins created.
func (rs records) keepProgress(a cni.Attachment, result json.RawMessage) error {
	if err := os.WriteFile(rs.progressPath(a), result, 0o600); err != nil {
		return fmt.Errorf("recording the attachment's progress: %w", err)
	}
	return nil
}

// progress returns what keepProgress stored, or nil if there is nothing or it is
// incomplete.
func (rs records) progress(a cni.Attachment) json.RawMessage {
	data, err := os.ReadFile(rs.progressPath(a))
	if err != nil || !json.Valid(data) {
		return nil
	}
	return data
}

// dropProgress is for an ADD that is over. A file that cannot be removed does no
// harm.
func (rs records) dropProgress(a cni.Attachment) { _ = os.Remove(rs.progressPath(a)) }

// remove removes the attachment's record. It succeeds if there is none. A power
// failure may bring the record back; the DEL that is then due succeeds at once.
func (rs records) remove(a cni.Attachment) error {
	if err := os.Remove(rs.path(a)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting attachment: %w", err)
	}
	return nil
}

// keys returns the recorded attachments, including those of damaged records. Only a
// damaged record in a file named by a hash cannot be attributed: it is part of the
// error, and Detach of its attachment removes it.
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
			} else if !errors.Is(err, fault.NotFound) { // else it was detached just now
				errs = append(errs, fmt.Errorf("listing attachments: %w", err))
			}
		}
	}
	return keys, errors.Join(errs...)
}

// owner returns the attachment of a record whose file is named by a hash.
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
