package registration

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

// TestOldNews: the removal of a socket may be told of when its successor has been found
// already, by a scan. A path that nobody is at is forgotten, but not before the end of
// who was there.
func TestOldNews(t *testing.T) {
	events, leave := make(chan string, 10), make(chan struct{})
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	news, err := fsnotify.NewWatcher() // nobody listens to it
	if err != nil {
		t.Fatal(err)
	}
	defer news.Close()
	w := &watcher{ctx: ctx, dir: dir, events: news, opts: (*Options)(nil).orDefaults(), sockets: map[string]*socket{}, handlers: map[string]Handler{CSIPlugin: {
		Register:   func(context.Context, Plugin) error { events <- "register"; return nil },
		Deregister: func(Plugin) { <-leave; events <- "deregister" },
	}}}
	letGo := sync.OnceFunc(func() { close(leave) })
	defer w.running.Wait()
	defer cancel()
	defer letGo()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-events:
			if got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no %s", want)
		}
	}
	path := filepath.Join(dir, "a.sock")
	serve := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Serve(ctx, dir, Plugin{Kind: CSIPlugin, Name: "a", Socket: path}, nil) }()
		for w.sockets[path] == nil || w.sockets[path].id == nil {
			if err := w.found(path); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	stop := serve()
	expect("register")
	stop()
	w.gone(path)
	w.rescan()
	if w.sockets[path] == nil {
		t.Fatal("the path is forgotten before who was there has gone")
	}
	stop = serve()
	letGo()
	expect("deregister")
	expect("register")
	w.gone(path) // which is told of the one before
	select {
	case got := <-events:
		t.Fatalf("%s for what was told too late", got)
	case <-time.After(50 * time.Millisecond):
	}
	stop()
	w.gone(path)
	expect("deregister")
	for deadline := time.Now().Add(20 * time.Second); len(w.sockets) > 0; w.rescan() {
		if time.Now().After(deadline) {
			t.Fatal("the path is not forgotten")
		}
	}
}
