package registration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/nodekit-project/nodekit/internal/sockfile"
)

// rescanEvery is the period of the safety net behind inotify.
const rescanEvery = 30 * time.Second

// Watch registers every plugin whose socket is in dir or a directory below it, now or
// later, with the handler of its kind, until ctx ends; then it returns nil. dir is
// created if it does not exist.
//
// The rules are the kubelet's: names that begin with a dot, and files that are not
// sockets, are ignored; the plugin identifies itself in GetInfo and gets the outcome
// with NotifyRegistrationStatus. A failed attempt is retried with back-off (10 ms
// doubling to 30 s) while the socket exists. A socket that was replaced is a new
// instance, even at the same path.
//
// An endpoint below /var/lib/kubelet, as given by a plugin in a container or in a
// mount namespace of its own, is first looked for below the parent of dir.
func Watch(ctx context.Context, dir string, handlers map[string]Handler, opts *Options) error {
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("making the plugin registry: %w", err)
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching %q: %w", dir, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{ctx: ctx, dir: dir, handlers: handlers, opts: opts.orDefaults(), events: events, sockets: map[string]*socket{}}
	defer w.running.Wait()
	defer events.Close()
	defer cancel()
	if err := w.scan(); err != nil {
		return err
	}
	return w.loop()
}

type watcher struct {
	ctx      context.Context // of Watch; the watcher does not outlive it
	dir      string
	handlers map[string]Handler
	opts     Options
	events   *fsnotify.Watcher
	sockets  map[string]*socket // by path; only the loop's goroutine uses it
	running  sync.WaitGroup
}

func (w *watcher) loop() error {
	safetyNet := time.NewTicker(rescanEvery)
	defer safetyNet.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return nil
		case e := <-w.events.Events:
			w.handle(e)
		case err := <-w.events.Errors: // an overflow: events were lost
			w.opts.Logger.Warn("plugin registry: rescanning", "dir", w.dir, "err", err)
			w.rescan()
		case <-safetyNet.C:
			w.rescan()
		}
	}
}

func (w *watcher) handle(e fsnotify.Event) {
	switch {
	case e.Has(fsnotify.Create):
		if err := w.walk(e.Name); err != nil {
			w.opts.Logger.Warn("plugin registry: looking at a new entry", "path", e.Name, "err", err)
		}
	case e.Has(fsnotify.Remove), e.Has(fsnotify.Rename):
		w.gone(e.Name)
	}
}

// gone ends the instance at path, or all those below it: a directory that was moved
// away causes no events for its entries.
func (w *watcher) gone(path string) {
	for p, s := range w.sockets {
		if p == path || strings.HasPrefix(p, path+"/") {
			s.look()
		}
	}
}

func (w *watcher) rescan() {
	for p, s := range w.sockets {
		s.look()
		if s.idle() {
			delete(w.sockets, p)
		}
	}
	if err := w.scan(); err != nil {
		w.opts.Logger.Warn("plugin registry: rescanning", "dir", w.dir, "err", err)
	}
}

func (w *watcher) scan() error {
	if err := w.walk(w.dir); err != nil {
		return fmt.Errorf("scanning %q: %w", w.dir, err)
	}
	return nil
}

// walk watches the directories at and below path and handles their sockets. A
// directory is watched before it is read, so that nothing is missed in between.
func (w *watcher) walk(path string) error {
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone in the meantime
			return nil
		case err != nil:
			return err
		case p != w.dir && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return w.watchDir(p)
		}
		return w.found(p)
	})
	return err
}

func (w *watcher) watchDir(dir string) error {
	if err := w.events.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// found handles the socket at path, unless it is the known instance.
func (w *watcher) found(path string) error {
	id, err := sockfile.Identify(path)
	if err != nil || id == nil {
		return err
	}
	s := w.sockets[path]
	if s == nil {
		s = w.newSocket(path)
		w.sockets[path] = s
	}
	s.replace(id)
	return nil
}
