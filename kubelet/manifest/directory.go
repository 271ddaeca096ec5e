package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

const (
	relistEvery = 20 * time.Second // behind inotify, as the kubelet does
	retryMin    = 100 * time.Millisecond
	settled     = time.Second // how old a change must be for the relist, which cannot see that a writer is done
)

// Report is the result of reading a file: an error, in which case its last good version
// stays in force, or notices.
type Report struct {
	File    string
	Notices []Notice
	Err     error
}

// Directory keeps a store in sync with the manifest files of a directory: all regular
// files except those whose names begin with a dot or end with "~".
type Directory struct {
	path   string
	store  Store
	report func(Report)
	log    *slog.Logger
	files  map[string]*file
	again  chan struct{}
	said   string // the last error of Apply, not to repeat it
}

// file is what is known about one file.
type file struct {
	size    int64
	changed time.Time
	objects []Object
	good    bool // objects are from a version that could be read
}

// Options configures NewDirectory. Nil means the defaults.
type Options struct {
	// Report is called for every file that was read, whether it is new, changed or
	// invalid. Nil means no call; errors are logged in any case.
	Report func(Report)
	Logger *slog.Logger // nil discards
}

// NewDirectory returns a source for the directory, which must exist.
func NewDirectory(path string, store Store, opts *Options) (*Directory, error) {
	if opts == nil {
		opts = &Options{}
	}
	d := &Directory{path: path, store: store, report: opts.Report, log: opts.Logger, files: map[string]*file{}, again: make(chan struct{}, 1)}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.report == nil {
		d.report = func(Report) {}
	}
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening the manifest directory: %w: make it first", err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the manifest directory: %w", err)
	}
	if !fi.IsDir() {
		return nil, fault.Invalid.Errorf("opening the manifest directory: %q is not a directory", path)
	}
	return d, nil
}

// Again makes Run compare the store with the files again. Call it after a Pod's object
// was removed: the next of its name may be waiting.
func (d *Directory) Again() {
	select {
	case d.again <- struct{}{}:
	default:
	}
}

// Run keeps the store in sync until ctx ends, and then returns nil. It calls synced
// once, when the store for the first time has everything that it can get from the files
// and nothing that they no longer contain. It retries while the store does not answer.
// A file that is rejected delays nothing.
func (d *Directory) Run(ctx context.Context, synced func()) error {
	changes := watch(ctx, d.path, d.log)
	d.list(true)
	relist := time.NewTicker(relistEvery)
	defer relist.Stop()
	var once sync.Once
	for failures := 0; ; {
		var retry <-chan time.Time
		err := d.apply(ctx)
		if err == nil {
			failures = 0
		} else {
			failures++
			retry = time.After(pod.Backoff(failures, retryMin, relistEvery))
		}
		if !unfinished(err) {
			once.Do(synced)
		}
		select {
		case <-ctx.Done():
			return nil
		case names := <-changes:
			if len(names) == 0 {
				d.list(false)
			}
			for _, name := range names {
				d.read(name)
			}
		case <-relist.C:
			d.list(false)
		case <-d.again:
		case <-retry:
		}
	}
}

// list reads every file that has changed, and forgets those that are gone. If the
// directory cannot be listed, its files are not considered gone.
func (d *Directory) list(first bool) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		d.log.Error("listing the manifest directory: its Pods stay", "err", err)
		return
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
		fi, err := os.Stat(filepath.Join(d.path, e.Name()))
		if err != nil {
			continue
		}
		have := d.files[e.Name()]
		if have != nil && have.size == fi.Size() && have.changed.Equal(fi.ModTime()) {
			continue
		}
		if first || time.Since(fi.ModTime()) > settled {
			d.read(e.Name())
		}
	}
	for name := range d.files {
		if !there[name] {
			delete(d.files, name)
		}
	}
}

// read reads one file by its name.
func (d *Directory) read(name string) {
	if name == "" || strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
		return
	}
	path := filepath.Join(d.path, name)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(d.path); err == nil {
			delete(d.files, name)
		}
		return
	}
	if err == nil && !fi.Mode().IsRegular() {
		return
	}
	f := d.files[name]
	if f == nil {
		f = &file{}
		d.files[name] = f
	}
	var objects []Object
	var notices []Notice
	if err == nil {
		f.size, f.changed = fi.Size(), fi.ModTime()
		objects, notices, err = load(path)
	}
	d.report(Report{File: name, Notices: notices, Err: err})
	if err != nil {
		d.log.Error("reading a manifest: its last good version stays in force", "file", name, "err", err)
		return
	}
	for _, n := range notices {
		d.log.Info("a field has no effect", "file", name, "object", n.Object, "field", n.Field, "why", n.Why)
	}
	f.objects, f.good = objects, true
}

func load(path string) ([]Object, []Notice, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(data) > MaxFile {
		return nil, nil, fault.Invalid.Errorf("the file is larger than %d MiB", MaxFile>>20)
	}
	return Decode(data)
}

// apply updates the store to the files, as far as that is possible now.
func (d *Directory) apply(ctx context.Context) error {
	want := &Desired{Files: map[string][]Object{}, Keep: map[string]bool{}}
	for name, f := range d.files {
		if f.good {
			want.Files[name] = f.objects
		} else {
			want.Keep[name] = true
		}
	}
	err := Apply(ctx, d.store, want)
	if err == nil {
		d.said = ""
		return nil
	}
	if text := err.Error(); text != d.said && ctx.Err() == nil {
		d.said = text
		d.report(Report{Err: err})
		d.log.Error("applying the manifests", "err", err)
	}
	return err
}
