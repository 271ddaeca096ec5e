// Package state stores what a CNI plugin must remember about its attachments after its
// process has ended: one small file per network, container and interface, replaced
// atomically and synced, so that a kill -9 or a power failure at any instant leaves
// either the old record or the new one.
//
// A plugin that is not built on package cni can use this package alone: Put a record
// with Done unset before the first action of ADD, Put it again with the result, Get it
// in DEL, Delete it when DEL is done, and let GC remove what List returns and the
// runtime does not name. Plugins of package cni get all of that through Handlers.State.
//
// A record without Done is left by a crash: its DEL is due. Get and List report a
// record that cannot be read; they still know from its name which attachment it belongs
// to, and the DEL that follows removes it.
//
// Methods are safe for concurrent use, also by several processes, as long as each
// attachment has only one writer at a time, which the specification requires of
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

// Version is the version of the record format. Records of a newer version are refused.
// Version 2 introduced Delegates, as bare configurations. A record without Delegates is
// written as version 1, which earlier programs read.
const Version = 3

// Record is what the store keeps about one attachment.
type Record struct {
	Version     int    `json:"version"`
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
	// Plugin is the type of the plugin that owns the record. Plugins that share a
	// directory see each other's records and leave them alone.
	Plugin string `json:"plugin"`
	// Boot is the kernel's boot ID at the time of the ADD: nothing that the attachment
	// had in the kernel outlives the boot. Put sets it if it is empty.
	Boot string `json:"boot"`
	// NetNS is CNI_NETNS. Since a path may later lead to a different namespace, NetNSID
	// and NetNSCookie identify it: NetNSID is the device and inode of its file, which
	// the kernel reuses, and NetNSCookie is unique within a boot (SO_NETNS_COOKIE,
	// Linux 5.14). They are empty or 0 if unknown.
	NetNS       string `json:"netns,omitempty"`
	NetNSID     string `json:"netnsID,omitempty"`
	NetNSCookie uint64 `json:"netnsCookie,omitempty"`
	// Args is the CNI_ARGS of the ADD.
	Args string `json:"args,omitempty"`
	// Done says that ADD has succeeded.
	Done bool `json:"done,omitempty"`
	// Config is the configuration of the ADD, Result its result, and Data the plugin's
	// own data. Each may be nil.
	Config json.RawMessage `json:"config,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
	// Delegates are the plugins whose ADD was started, in this order, and whose DEL is
	// due with that of this attachment.
	Delegates []Delegate `json:"delegates,omitempty"`
}

// Delegate is a plugin that the record's plugin called with a configuration of its own.
type Delegate struct {
	Config json.RawMessage `json:"config"`
	// IfName and Result are the CNI_IFNAME and the ADD result of a delegate with an
	// interface of its own; they are empty if it has the attachment's.
	IfName string          `json:"ifname,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// UnmarshalJSON also reads the version 2 form, a bare configuration, which it
// recognizes by its type key.
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

// Boot returns the kernel's current boot ID, for Record.Boot. It needs Linux.
func Boot() (string, error) { return bootid.Read() }

// Store is a directory of records.
type Store struct{ dir string }

// made is the mode of directories that Put creates.
const made = 0o700

// Open returns the store in dir without reading anything. The first Put creates the
// directory, and the last Delete removes it, unless its mode is not the one that Put
// gives: then somebody else created it, and it stays.
func Open(dir string) *Store { return &Store{dir} }

// Put writes the record durably and replaces an existing one. Names that cannot be
// those of an attachment are fault.Invalid.
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

// Get returns the record of an attachment. If there is none, the error is
// fault.NotFound. If the record is damaged, it is fault.Invalid, and the record
// returned with it has only the names. If a newer program wrote it, it is
// fault.FailedPrecondition.
func (s *Store) Get(network, containerID, ifName string) (*Record, error) {
	path, err := s.path(network, containerID, ifName)
	if err != nil {
		return nil, err
	}
	return read(path, Record{Network: network, ContainerID: containerID, IfName: ifName})
}

// write creates the directories and the file in them. A concurrent Delete of the last
// attachment may remove a directory: then it is missing when the file is created, or
// mkdir finds it and MkdirAll's stat does not. write then starts over, until only a
// path that cannot be created explains the failures (such as a dangling symlink,
// after some 10 ms).
func write(path string, data []byte) (err error) {
	const attempts = 1000 // each lost to another container's DEL; up to 99 were seen, with DELs that do nothing else
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

// Delete removes the record of an attachment and what an interrupted Put of it left. It
// succeeds if there is no record. Deleting the last record of a network also removes
// the network's directory, and deleting the last one of all removes the store's.
func (s *Store) Delete(network, containerID, ifName string) error {
	path, err := s.path(network, containerID, ifName)
	if err != nil {
		return err
	}
	if err := errors.Join(atomicfile.Discard(path), atomicfile.Remove(path)); err != nil {
		return fmt.Errorf("forgetting attachment: %w", err)
	}
	_ = os.Remove(filepath.Dir(path)) // fails while there are other records
	if fi, err := os.Lstat(s.dir); err == nil && fi.Mode() == fs.ModeDir|made {
		_ = os.Remove(s.dir) // fails while there are other networks
	}
	return nil
}

// List returns the network's records sorted by name. The errors that Get would return
// for damaged and newer records are joined into the error. Damaged records are
// included, with only their names, unless the names are too long to be part of the file
// name (about 200 bytes): only Get names those.
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
			continue // left by an interrupted write; Clean removes it
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

// Clean removes what interrupted writes of the network's records left. It makes a
// concurrent Put start over, so it is meant for GC, which the specification never runs
// beside ADD and DEL.
func (s *Store) Clean(network string) error {
	if !cniname.Valid(network) {
		return fault.Invalid.Errorf("%q is no name of a network", network)
	}
	return atomicfile.Clean(s.networkDir(network))
}

// Check reports why a record could not be written now, without writing one.
func (s *Store) Check() error {
	for dir := s.dir; ; dir = filepath.Dir(dir) {
		err := writable(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			continue // Put creates it
		}
		if err != nil {
			return fmt.Errorf("state directory %q cannot be written to: %w", s.dir, err)
		}
		return nil
	}
}
