package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Draft is a checkpoint that is being written. It is for one goroutine, and to be closed.
type Draft struct {
	dir    *os.Root
	images []*os.File // directories
}

// Prepare makes the directories of a checkpoint of n containers in dir. One that is not
// empty, or that others than root can write to, is fault.Invalid. From then on the
// directory that dir has named is written to, whatever is put into its place or that of
// one above it.
func Prepare(dir string, n int) (_ *Draft, err error) {
	root, err := openDirectory(dir)
	if err != nil {
		return nil, err
	}
	d := &Draft{dir: root}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("preparing the checkpoint: %w", err), d.Close())
		}
	}()
	if err := d.empty(); err != nil {
		return nil, err
	}
	for i := range n {
		if err := root.MkdirAll(Images(i), 0o700); err != nil {
			return nil, err
		}
		images, err := root.Open(Images(i))
		if err != nil {
			return nil, err
		}
		d.images = append(d.images, images)
	}
	return d, nil
}

func (d *Draft) empty() error {
	top, err := d.dir.Open(".")
	if err != nil {
		return err
	}
	defer top.Close()
	if names, err := top.Readdirnames(1); !errors.Is(err, io.EOF) {
		return errors.Join(err, fault.Invalid.Errorf("%q is there: the directory must be empty", names))
	}
	return nil
}

// Close closes it. Without Seal what was written is no checkpoint.
func (d *Draft) Close() error {
	errs := []error{d.dir.Close()}
	for _, f := range d.images {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Images is the path of the directory for criu's images of container n. It is of use, to
// every process of root, until Close or the end of this process.
func (d *Draft) Images(n int) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), d.images[n].Fd())
}

// Create makes a new file.
func (d *Draft) Create(name string) (*os.File, error) {
	return d.dir.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
}

// PutSpec writes the spec that container n runs with.
func (d *Draft) PutSpec(n int, doc *specs.Spec) error {
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return d.put(Spec(n), text)
}

func (d *Draft) put(name string, text []byte) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// Seal writes the description of what is in the directory, when everything else is there
// and on the disk. Without that it is no checkpoint.
func (d *Draft) Seal(p *Pod) error {
	if err := d.seal(p); err != nil {
		return fmt.Errorf("sealing the checkpoint: %w", err)
	}
	return nil
}

func (d *Draft) seal(p *Pod) (err error) {
	if p.Files, err = filesIn(d.dir); err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return err
	}
	text, err := encode(p)
	if err != nil {
		return err
	}
	const unfinished = "." + description
	if err := d.put(unfinished, text); err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	if err := d.dir.Rename(unfinished, description); err != nil {
		return err
	}
	return d.sync()
}

// sync has what was written, by criu, too, on the disk.
func (d *Draft) sync() error {
	top, err := d.dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(top.Fd())), top.Close())
}
