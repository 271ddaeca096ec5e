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

// Saved is a checkpoint in a directory, which is only read.
type Saved struct {
	*Pod

	dir string
}

// Open looks at the checkpoint in dir, an absolute path. What is no whole checkpoint is
// fault.Invalid, one of another version fault.FailedPrecondition.
func Open(dir string) (*Saved, error) {
	dir = filepath.Clean(dir)
	if err := private(dir, dir); err != nil {
		return nil, err
	}
	text, err := readFile(filepath.Join(dir, description), maxDescription)
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
	files, err := filesIn(dir)
	if err != nil {
		return nil, err
	}
	return &Saved{p, dir}, p.agrees(files)
}

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
func (s *Saved) Open(name string) (*os.File, error) { return open(filepath.Join(s.dir, name)) }

// Spec returns the spec that container n ran with.
func (s *Saved) Spec(n int) (*specs.Spec, error) {
	text, err := readFile(filepath.Join(s.dir, Spec(n)), maxSpec)
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

// open opens a regular file, and neither follows a link nor waits for a pipe.
func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fault.Invalid.Errorf("%q is a link", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault.Invalid.Errorf("%q is no regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fault.Invalid.Errorf("%q has more than %d bytes", path, limit)
	}
	return text, err
}
