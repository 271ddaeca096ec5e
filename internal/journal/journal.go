// Package journal records intents: what a process is about to do to the machine,
// written durably before the act and confirmed after it. After a crash the open
// intents say exactly what may be half done.
//
//	id, err := j.Begin("cni-add", attachment) // durable when it returns
//	...                                       // act; must be safe to undo or repeat
//	err = j.Done(id)
//
// At the next start Pending returns every unconfirmed intent, in the order in which
// they were begun; the owner finishes or undoes each and confirms it. A confirmation
// is not synced to disk: if a crash loses one, the intent is only replayed, so acts
// and their undoing must be idempotent. What matters only to the next process in the
// same boot need not be synced either: see Note.
//
// The file is a version line and one checksummed JSON record per line. A torn last
// line, which is what a crash leaves, is dropped; damage anywhere else is an error,
// because dropping it could leak what it describes. A power failure can cause such
// damage if the file system keeps a later page and loses an earlier one, neither of
// which was synced yet. A file of a newer version is refused. One process owns a
// journal at a time (flock).
//
// A Journal is safe for concurrent use.
package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	header = kind + "1\n"
	kind   = "nodekit-journal " // followed by the version number
)

// compactAbove is how many bytes a journal may grow by before what has ended is removed
// from it. It bounds both the file and the time to open it.
const compactAbove = 256 << 10

// ID identifies an intent within its journal.
type ID uint64

// Entry is an intent that was begun and not confirmed.
type Entry struct {
	ID   ID              `json:"id"`
	Kind string          `json:"kind,omitempty"`
	Data json.RawMessage `json:"data,omitempty"`
	Done bool            `json:"done,omitempty"`
}

// Journal is an open journal file.
type Journal struct {
	mu       sync.Mutex
	path     string
	file     *os.File
	size     int64
	limit    int64 // of size, above which it is compacted
	next     ID
	open     []Entry // in the order in which they were begun
	appended uint64  // intents, since Open

	syncing sync.Mutex // locked before mu
	sync    func(*os.File) error
	synced  uint64 // how many of the appended intents are synced
	lost    uint64 // the last intent that a failed sync may have lost
	failure error  // of that sync
}

// Open opens or creates the journal at path, whose directory must exist. If another
// process has it open, the error is fault.AlreadyExists; if it is newer,
// fault.FailedPrecondition; if it is damaged, fault.Invalid.
func Open(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	j := &Journal{path: path, file: f, next: 1, limit: compactAbove, sync: syncData}
	if err := j.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening journal %q: %w", path, err), f.Close())
	}
	_ = os.Remove(j.anew()) // of a process that was killed
	return j, nil
}

// PutAside renames a journal that Open reported as damaged to path + ".damaged",
// replacing an earlier one, for people to look at, so that the next Open starts a new
// journal. A journal that is no longer damaged, because another process was faster,
// stays.
func PutAside(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("putting journal aside: %w", err)
	}
	defer f.Close() // and releases the lock
	j := &Journal{path: path, file: f, next: 1}
	if err := j.load(); !errors.Is(err, fault.Invalid) {
		return err
	}
	return os.Rename(path, path+".damaged")
}

func (j *Journal) load() error {
	if err := unix.Flock(int(j.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fault.AlreadyExists.Errorf("another process has it open")
		}
		return err
	}
	content, err := j.read()
	if err != nil {
		return err
	}
	if len(content) < len(header) { // new, or torn while it was created
		return j.reset()
	}
	body, ok := bytes.CutPrefix(content, []byte(header))
	if !ok {
		return refuse(content)
	}
	good, err := j.replay(body)
	if err != nil {
		return err
	}
	j.size = int64(len(header) + good)
	if err := j.file.Truncate(j.size); err != nil {
		return err
	}
	_, err = j.file.Seek(j.size, 0)
	return err
}

// refuse returns the error for a file that does not begin like a journal of this
// program.
func refuse(content []byte) error {
	first, _, _ := bytes.Cut(content, []byte("\n"))
	if version, ok := strings.CutPrefix(string(first), kind); ok {
		if _, err := strconv.ParseUint(version, 10, 32); err == nil {
			return fault.FailedPrecondition.Errorf("it begins with %q, and this program reads %q: use the version that wrote it", first, header)
		}
	}
	return fault.Invalid.Errorf("it begins with %.40q, and a journal with %q; move the file away to start without it, after checking what it describes", first, header)
}

// read reads the file if it is still the one at the path: another process may have
// put it aside before this one got the lock.
func (j *Journal) read() ([]byte, error) {
	locked, err := j.file.Stat()
	if err != nil {
		return nil, err
	}
	if now, err := os.Stat(j.path); err != nil || !os.SameFile(locked, now) {
		return nil, fault.AlreadyExists.Errorf("another process has begun it anew")
	}
	return os.ReadFile(j.path)
}

// replay rebuilds the open intents and returns how many bytes are whole lines.
func (j *Journal) replay(body []byte) (good int, err error) {
	for good < len(body) {
		end := bytes.IndexByte(body[good:], '\n')
		if end < 0 {
			return good, nil // torn tail
		}
		e, err := parse(body[good : good+end])
		if err != nil {
			if good+end+1 == len(body) {
				return good, nil // torn tail that happens to end in a newline
			}
			return 0, fault.Invalid.Errorf("byte %d: %w; move the file away to start without it, after checking what it describes", len(header)+good, err)
		}
		j.apply(e)
		good += end + 1
	}
	return good, nil
}

func (j *Journal) apply(e Entry) {
	j.next = max(j.next, e.ID+1)
	if !e.Done {
		j.open = append(j.open, e)
		return
	}
	j.open = slices.DeleteFunc(j.open, func(o Entry) bool { return o.ID == e.ID })
}

// Begin records that the caller is about to act. It returns when the record is on
// disk; concurrent callers share a sync. After an error the caller must not act.
func (j *Journal) Begin(kind string, data any) (ID, error) {
	id, n, err := j.begin(kind, data)
	if err == nil {
		err = j.settle(n)
	}
	if err != nil {
		return 0, fmt.Errorf("journalling %s: %w", kind, errors.Join(err, j.Done(id)))
	}
	return id, nil
}

// Note is Begin for a record that must survive the death of the process at any
// instant, but not a power failure: it returns when the kernel has the data, which
// writes it to disk within half a minute. A power failure may lose some records and
// keep later ones, which is damage for the next Open.
func (j *Journal) Note(kind string, data any) (ID, error) {
	id, _, err := j.begin(kind, data)
	if err != nil {
		return 0, fmt.Errorf("journalling %s: %w", kind, err)
	}
	return id, nil
}

// begin appends the intent, the n-th since Open.
func (j *Journal) begin(kind string, data any) (id ID, n uint64, err error) {
	raw, err := json.Marshal(data)
	if err != nil {
		return 0, 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	e := Entry{ID: j.next, Kind: kind, Data: raw}
	if err := j.append(e); err != nil {
		return 0, 0, err
	}
	j.apply(e) // from now on nothing may empty the file
	j.appended++
	return e.ID, j.appended, nil
}

// settle makes the first n intents durable, and with them those appended in the
// meantime, whose callers then find that done. A failed sync may have lost everything
// it was for, and the kernel reports that only once.
func (j *Journal) settle(n uint64) error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	if n <= j.lost { // even if a later sync succeeded
		return j.failure
	}
	if n <= j.synced {
		return nil
	}
	j.mu.Lock()
	all := j.appended
	j.mu.Unlock()
	if err := j.sync(j.file); err != nil {
		j.lost, j.failure = all, err
		return err
	}
	j.synced = all
	return nil
}

// Done confirms that the act of the intent is complete or undone. Confirming an
// intent twice does nothing.
func (j *Journal) Done(id ID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.ContainsFunc(j.open, func(e Entry) bool { return e.ID == id }) {
		return nil
	}
	e := Entry{ID: id, Done: true}
	if err := j.append(e); err != nil {
		return fmt.Errorf("confirming intent %d: %w", id, err)
	}
	j.apply(e)
	switch {
	case j.size <= j.limit:
	case len(j.open) == 0:
		return j.compact()
	case j.syncing.TryLock(): // else the next one does it
		defer j.syncing.Unlock()
		j.limit = j.size + compactAbove // where it cannot be done now, as on a full disk
		return j.rewrite()
	}
	return nil
}

// Pending returns the open intents, oldest first.
func (j *Journal) Pending() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.open)
}

// Close releases the journal. Open intents stay open.
func (j *Journal) Close() error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}

func (j *Journal) append(e Entry) error {
	line, err := format(e)
	if err != nil {
		return err
	}
	n, err := j.file.WriteAt(line, j.size)
	if err != nil {
		// Part of the line may have been written; the next append overwrites it.
		return err
	}
	j.size += int64(n)
	return nil
}

// reset makes the file an empty journal of this version.
func (j *Journal) reset() error {
	if err := j.file.Truncate(0); err != nil {
		return err
	}
	if _, err := j.file.WriteAt([]byte(header), 0); err != nil {
		return err
	}
	j.size = int64(len(header))
	if err := j.file.Sync(); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(j.path))
}

// compact empties the file but keeps the id counter moving: ids are only
// unique within a file, and an empty one has no intent to confuse them with.
func (j *Journal) compact() error {
	if err := j.file.Truncate(int64(len(header))); err != nil {
		return err
	}
	j.size, j.limit = int64(len(header)), compactAbove
	return nil
}

// anew is the file that takes the journal's place.
func (j *Journal) anew() string { return j.path + ".new" }

// rewrite puts a file in the journal's place that has the open intents alone, and they are
// on the disk then. It is locked before anybody can open it. Where that cannot be done,
// the journal goes on as it is; an error is of the directory, which may not have the name.
func (j *Journal) rewrite() error {
	content := []byte(header)
	for _, e := range j.open {
		line, err := format(e)
		if err != nil {
			return err
		}
		content = append(content, line...)
	}
	f, err := os.OpenFile(j.anew(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = f.WriteAt(content, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(j.anew(), j.path)
	}
	if err != nil {
		_, _ = os.Remove(j.anew()), f.Close()
		return nil
	}
	old := j.file
	j.file, j.size = f, int64(len(content))
	j.limit, j.synced = j.size+compactAbove, j.appended
	_ = old.Close()
	return atomicfile.SyncDir(filepath.Dir(j.path))
}

func format(e Entry) ([]byte, error) {
	rec, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(rec), rec), nil
}

func parse(line []byte) (e Entry, err error) {
	sum, rec, ok := bytes.Cut(line, []byte(" "))
	want, perr := strconv.ParseUint(string(sum), 16, 32)
	if !ok || perr != nil || uint32(want) != crc32.ChecksumIEEE(rec) {
		return e, errors.New("the checksum of a record does not match")
	}
	return e, json.Unmarshal(rec, &e)
}
