package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/ctxio"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Saved is a checkpoint in a directory, which is only read. It is for one goroutine, and
// to be closed.
type Saved struct {
	*Pod

	dir *os.Root
}

// Open looks at the checkpoint in dir. What is no whole checkpoint is fault.Invalid, one
// of another version fault.FailedPrecondition. From then on the directory that dir has
// named is read, whatever is put into its place or that of one above it.
func Open(dir string) (_ *Saved, err error) {
	root, err := openDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Close())
		}
	}()
	text, err := readFile(root, description, maxDescription)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Invalid.Errorf("it is no checkpoint: %s is not there", description)
	}
	if err != nil {
		return nil, err
	}
	p, err := decode(text)
	if err != nil {
		return nil, err
	}
	files, err := filesIn(root)
	if err == nil {
		err = p.agrees(files)
	}
	if err != nil {
		return nil, err
	}
	return &Saved{p, root}, nil
}

// Close closes it.
func (s *Saved) Close() error { return s.dir.Close() }

// agrees reports a file that is there and not in the description, or the other way
// round, or of another size.
func (p *Pod) agrees(files map[string]int64) error {
	for name, want := range p.Files {
		if size, ok := files[name]; !ok || size != want {
			return fault.Invalid.Errorf("the checkpoint is damaged: %q has %d bytes (it is there: %v), and %s says %d", name, size, ok, description, want)
		}
	}
	for name := range files {
		if _, ok := p.Files[name]; !ok {
			return fault.Invalid.Errorf("the checkpoint is damaged: %q is there, and not in %s", name, description)
		}
	}
	return nil
}

// Has reports whether the checkpoint has the file.
func (s *Saved) Has(name string) bool {
	_, ok := s.Files[name]
	return ok
}

// Open opens a file of the checkpoint.
func (s *Saved) Open(name string) (*os.File, error) { return open(s.dir, name) }

// Spec returns the spec that container n ran with.
func (s *Saved) Spec(n int) (*specs.Spec, error) {
	text, err := readFile(s.dir, Spec(n), maxSpec)
	if err != nil {
		return nil, err
	}
	var doc specs.Spec
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fault.Invalid.Errorf("%s: %w", Spec(n), err)
	}
	if doc.Process == nil || doc.Root == nil || doc.Linux == nil {
		return nil, fault.Invalid.Errorf("%s is no spec of a container", Spec(n))
	}
	return &doc, nil
}

// CopyImages copies criu's images of container n to a new directory, so that the
// checkpoint may go.
func (s *Saved) CopyImages(ctx context.Context, n int, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for _, name := range s.images(n) {
		from := filepath.Join(Images(n), name)
		if err := s.copy(ctx, from, filepath.Join(to, name)); err != nil {
			return fmt.Errorf("copying %q: %w", from, err)
		}
	}
	return nil
}

func (s *Saved) copy(ctx context.Context, name, to string) error {
	from, err := s.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	want := s.Files[name]
	n, err := io.Copy(f, ctxio.Reader(ctx, io.LimitReader(from, want)))
	if err == nil && n != want {
		err = fault.Invalid.Errorf("it has changed while it was read")
	}
	return errors.Join(err, f.Close())
}

// open opens a regular file that is root's alone to write, and neither follows a link nor
// waits for a pipe.
func open(dir *os.Root, name string) (*os.File, error) {
	seen, err := dir.Lstat(name)
	if err == nil {
		err = private(seen, name)
	}
	if err == nil && !seen.Mode().IsRegular() {
		err = fault.Invalid.Errorf("%q is no regular file", name)
	}
	if err != nil {
		return nil, err
	}
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !os.SameFile(seen, info) {
		err = fault.Invalid.Errorf("%q has become another file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func readFile(dir *os.Root, name string, limit int64) ([]byte, error) {
	f, err := open(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fault.Invalid.Errorf("%q has more than %d bytes", name, limit)
	}
	return text, err
}
