// Package state keeps what a CNI plugin must know of its attachments after its
// process has ended: one small file for each network, container and interface,
// replaced whole and synced, so that a kill -9 or a power failure at any instant
// leaves the old record or the new one.
//
// It is the rung of the SDK that a plugin on any other footing can take alone:
// Put a record with Done unset before the first act of ADD, Put it again with the
// result, Get it in DEL, Delete it when DEL is done, and let GC remove what List
// returns and the runtime does not name. Plugins of package cni get all that by
// Handlers.State.
//
// What a crash can leave is a record without Done: its DEL is due. A record that
// cannot be read any more is reported by Get and List, which still know whose it
// is by its name, and goes with the DEL that follows.
//
// Methods are safe for concurrent use, by several processes too, as long as one
// attachment has one writer at a time, which the specification demands of
// runtimes (CNI 1.1.0, section 3).
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/bootid"
	"github.com/nodekit-project/nodekit/internal/cniname"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Version is the version of the record format. A newer one is refused. Version 2 has
// Delegates, as bare configurations; a record without is written as version 1, which
// earlier programs read.
const Version = 3

// Record is what is kept of one attachment.
type Record struct {
	Version     int    `json:"version"`
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
	// Plugin is the type of the plugin that owns the record. Plugins that share a
	// directory see each other's records and leave them alone.
	Plugin string `json:"plugin"`
	// Boot is the kernel's boot id when the record was begun: what the attachment
	// had in another boot's kernel is gone. Put sets it when it is empty.
	Boot string `json:"boot"`
	// NetNS is CNI_NETNS. NetNSID and NetNSCookie say which namespace that was,
	// because a path may lead to another one by now: the device and inode of its
	// file, which the kernel gives again, and the number that it gives once in a
	// boot (SO_NETNS_COOKIE, Linux 5.14). Empty or 0 where it is not known.
	NetNS       string `json:"netns,omitempty"`
	NetNSID     string `json:"netnsID,omitempty"`
	NetNSCookie uint64 `json:"netnsCookie,omitempty"`
	// Args is CNI_ARGS of the ADD.
	Args string `json:"args,omitempty"`
	// Done says that ADD has succeeded.
	Done bool `json:"done,omitempty"`
	// Config is the configuration of the ADD, Result its result, Data the plugin's
	// own. Each may be nil.
	Config json.RawMessage `json:"config,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
	// Delegates are plugins whose ADD was run, or begun, in this order, and whose DEL is
	// due with this attachment's.
	Delegates []Delegate `json:"delegates,omitempty"`
}

// Delegate is a plugin that another one has called, with a configuration of its own.
type Delegate struct {
	Config json.RawMessage `json:"config"`
	// IfName is its CNI_IFNAME, and Result the result of its ADD, where it has an
	// interface of its own: else it has the attachment's.
	IfName string          `json:"ifname,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// UnmarshalJSON reads version 2, too, which had the configuration alone. That has a type.
func (d *Delegate) UnmarshalJSON(data []byte) error {
	type plain Delegate // without this method
	var bare struct {
		Type any `json:"type"`
	}
	if err := json.Unmarshal(data, &bare); err != nil {
		return err
	}
	if bare.Type != nil {
		*d = Delegate{Config: slices.Clone(data)}
		return nil
	}
	return json.Unmarshal(data, (*plain)(d))
}

// Boot returns the id of the kernel's boot that a record made now is of. It needs
// Linux.
func Boot() (string, error) { return bootid.Read() }

// Store is a directory of records.
type Store struct{ dir string }

// made is the mode of the directories that Put makes.
const made = 0o700

// Open returns the store in dir, which the first Put makes, and the last Delete
// removes. A directory with another mode than that of Put's was made for it by
// somebody else, and stays. Nothing is read.
func Open(dir string) *Store { return &Store{dir} }

// Put makes the record durable, in place of one that is there. Names that cannot
// be those of an attachment are fault.Invalid.
func (s *Store) Put(r *Record) error {
	path, err := s.path(r.Network, r.ContainerID, r.IfName)
	if err != nil {
		return err
	}
	if r.Boot == "" {
		if r.Boot, err = Boot(); err != nil {
			return err
		}
	}
	r.Version = Version
	if len(r.Delegates) == 0 {
		r.Version = 1
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("recording attachment: %w", err)
	}
	if err := write(path, data); err != nil {
		return fmt.Errorf("recording attachment: %w", err)
	}
	return atomicfile.SyncDir(s.dir)
}

// Get returns the record of an attachment. None is fault.NotFound. One that is
// damaged is fault.Invalid, and the record that is returned beside the error has
// the names alone. One of a newer program is fault.FailedPrecondition.
func (s *Store) Get(network, containerID, ifName string) (*Record, error) {
	path, err := s.path(network, containerID, ifName)
	if err != nil {
		return nil, err
	}
	return read(path, Record{Network: network, ContainerID: containerID, IfName: ifName})
}

// write makes the directories and the file in them. Meanwhile a Delete of the last
// attachment may take a directory away: then it is not there for the file, or it was
// there for mkdir and is not for MkdirAll's look at what it is. It begins again then, as
// often as nothing but a path that can't be made explains (a link to nowhere, some 10 ms).
func write(path string, data []byte) (err error) {
	const attempts = 1000 // each lost to another container's DEL; up to 99 seen, of DELs that do nothing else
	for range attempts {
		if err = os.MkdirAll(filepath.Dir(path), made); err == nil {
			err = atomicfile.Write(path, data, 0o600)
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return err
}

// Delete forgets the attachment, with what an interrupted Put of it left. It
// succeeds when there is no record. The last one of a network takes the network's
// directory with it, and the last one of all the store's.
func (s *Store) Delete(network, containerID, ifName string) error {
	path, err := s.path(network, containerID, ifName)
	if err != nil {
		return err
	}
	if err := errors.Join(atomicfile.Discard(path), atomicfile.Remove(path)); err != nil {
		return fmt.Errorf("forgetting attachment: %w", err)
	}
	_ = os.Remove(filepath.Dir(path)) // which others' records keep
	if fi, err := os.Lstat(s.dir); err == nil && fi.Mode() == fs.ModeDir|made {
		_ = os.Remove(s.dir) // which other networks keep
	}
	return nil
}

// List returns the network's records in the order of their names. What Get
// reports of a record that is damaged or newer is joined into the error; the
// names of the damaged ones are among the records, except where they are so long
// that the file is not named by them (about 200 bytes): those only Get tells.
func (s *Store) List(network string) ([]*Record, error) {
	if !cniname.Valid(network) {
		return nil, fault.Invalid.Errorf("%q is no name of a network", network)
	}
	dir := s.networkDir(network)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing attachments: %w", err)
	}
	var out []*Record
	var errs []error
	for _, e := range entries {
		names, ok := namesOf(network, e.Name())
		if !ok {
			continue // an interrupted write's, which Clean removes
		}
		r, err := read(filepath.Join(dir, e.Name()), names)
		if err != nil && !errors.Is(err, fault.NotFound) {
			errs = append(errs, err)
		}
		if r != nil {
			out = append(out, r)
		}
	}
	return out, errors.Join(errs...)
}

// Clean removes what interrupted writes of the network's records left. A Put that is
// going on at the same time has to begin again by it, so this is for GC, which the
// specification keeps apart from ADD and DEL.
func (s *Store) Clean(network string) error {
	if !cniname.Valid(network) {
		return fault.Invalid.Errorf("%q is no name of a network", network)
	}
	return atomicfile.Clean(s.networkDir(network))
}

// Check reports why no record could be written now, without writing one.
func (s *Store) Check() error {
	for dir := s.dir; ; dir = filepath.Dir(dir) {
		err := writable(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			continue // Put makes it
		}
		if err != nil {
			return fmt.Errorf("state directory %q cannot be written to: %w", s.dir, err)
		}
		return nil
	}
}
